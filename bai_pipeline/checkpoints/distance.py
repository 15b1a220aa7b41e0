"""How far checkpoints are from each other: read in chunks, added up in float64. Imports no torch.

Of a base model b, a model x that was trained from it and a weight w, over the elements of a group of tensors:

    τ = x − b                     the task vector (Ilharco et al. 2023, arXiv:2212.04089)
    y = b + w τ                   what b becomes by the weighted task vector alone
    distance = ‖τ‖ / ‖b‖
    cosine   = τ₁·τ₂ / (‖τ₁‖ ‖τ₂‖)
    moved    = share of the elements with τ ≠ 0
    survived = share of the elements with round(y) ≠ round(b)
    rounding = RMS(round(y) − y) / RMS(y − b)

round gives the nearest value of the output's dtype, ties to even. Shapes: M models, E elements of a chunk.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Final, Self

from bai_pipeline.checkpoints.checkpoint import CHUNK_ELEMENTS, Checkpoint, Reader
from bai_pipeline.checkpoints.finite import first_non_finite
from bai_pipeline.checkpoints.header import ITEM_SIZES, TensorInfo
from bai_pipeline.checkpoints.listing import collapsed, numberless
from bai_pipeline.errors import CheckpointError, FitError
from bai_pipeline.progress import Reporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

LARGE_ROUNDING: Final = 0.1
"""A rounding error of more than this part of the change (`rounding`) deserves a warning."""

_KINDS: Final = {
    "norms": r"\w*norm\w*|ln_\w+",
    "router": r"\w*router\w*|gate|shared_expert_gate",
    "experts": r"experts",
    "attention": r"\w*attn\w*|\w*attention\w*|[qkvo]_proj",
    "head": r"\w*head|embed_out|score|\w*classifier",
    "embeddings": r"\w*embed\w*|wte|wpe",
    "mlp": r"mlp|ffn|feed_forward|shared_experts?|(?:gate|up|down)_proj",
}
"""What a part of a tensor's name is called in the layouts of transformers; the first kind that matches counts."""

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_FORMATS: Final = {"BF16": (8, -126), "F16": (11, -14), "F32": (24, -126), "F64": (53, -1022)}
"""Significant bits, and the exponent of the smallest normal number."""


@dataclass
class Sums:
    """What is added up over the elements of a group of tensors; arrays are in the order of the models.

    `base` is Σ b²; `dots` (M, M) Σ τ_i τ_j; `moved`, `survived` (M,) count elements; `error` (M,) is Σ (round(y) − y)².
    """

    elements: int
    base: float
    dots: "Values"
    moved: "Values"
    survived: "Values"
    error: "Values"

    @classmethod
    def zero(cls, models: int) -> Self:
        import numpy as np

        return cls(0, 0.0, np.zeros((models, models)), np.zeros(models), np.zeros(models), np.zeros(models))

    def __iadd__(self, other: Self) -> Self:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self

    def of(self, model: int, weight: float) -> dict[str, float | None]:
        """distance, moved, survived and rounding of one model; None where the divisor is zero."""
        norm = math.sqrt(self.dots[model, model])
        return {
            "distance": _ratio(norm, math.sqrt(self.base)),
            "moved": _ratio(self.moved[model], self.elements),
            "survived": _ratio(self.survived[model], self.elements),
            "rounding": _ratio(math.sqrt(self.error[model]), abs(weight) * norm),
        }

    def cosine(self, one: int, other: int) -> float | None:
        """Of two models' task vectors; None where one is zero."""
        norms = math.sqrt(self.dots[one, one]) * math.sqrt(self.dots[other, other])
        return _ratio(self.dots[one, other], norms)


@dataclass
class Distances:
    """Over all tensors, those of each kind, and those of each layer (None: outside the layers)."""

    total: Sums
    kinds: dict[str, Sums] = field(default_factory=dict)
    layers: dict[int | None, Sums] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""


def kind_of(tensor: str) -> str:
    """embeddings, attention, router, experts (those that are routed), mlp, norms, head or other, by the name."""
    parts = tensor.lower().split(".")
    return next((kind for kind, name in _KINDS.items() if any(re.fullmatch(name, part) for part in parts)), "other")


def measure_distances(
    base: Checkpoint, models: Mapping[str, Checkpoint], *, weight: float, dtype: str | None, reporter: Reporter
) -> Distances:
    """Read every tensor that the base and all models have; where rows were added, those that all have.

    Args:
        weight: w, of each model's task vector by itself; a BAI merge gives it (1 − alpha) · w_i.
        dtype: of the output: BF16, F16, F32 or F64; None: each tensor's in the base.

    Raises:
        FitError: there is no such tensor.
        CheckpointError: a value is NaN or infinite; the message names the tensor.
    """
    found, done, notes = Distances(Sums.zero(len(models))), 0, []
    for name, tensor in base.tensors.items():
        versions = [tensor, *(model.tensors[name] for model in models.values() if name in model.tensors)]
        elements, note = _comparable(versions, len(models) + 1)
        if note:
            notes.append((f"{numberless(name)}: {note}", f"tensor {name}: {note}"))
        if elements:
            sums = _measure_tensor(versions, elements, weight, dtype or tensor.dtype)
            match = _LAYER.search(name)
            kind = found.kinds.setdefault(kind_of(name), Sums.zero(len(models)))
            layer = found.layers.setdefault(int(match[1]) if match else None, Sums.zero(len(models)))
            for group in (found.total, kind, layer):
                group += sums
        done += tensor.nbytes
        reporter.progress(done, base.nbytes)
    if not found.kinds:
        raise FitError(f"{base.path}: {', '.join(models)} have no tensor of it in a shape and dtype to be compared")
    for label, model in models.items():
        only = sorted(model.tensors.keys() - base.tensors.keys())
        notes += [(f"{numberless(name)} of {label}", f"tensor {name}: only in {label}, not measured") for name in only]
    found.notes = collapsed(notes)
    return found


def difference(one: TensorInfo, other: TensorInfo) -> dict[str, float | None]:
    """Two tensors of one shape: the share of equal elements, max |other − one| and ‖other − one‖ / ‖one‖.

    Elements of one dtype are equal when their bits are; of two dtypes, when their values are. The two numbers are None
    where a value is not finite or has eight bits and so no meaning without a scale; the last also where ‖one‖ is 0.
    """
    import numpy as np

    equal, largest, squares, norm = 0, 0.0, 0.0, 0.0
    has_values = min(ITEM_SIZES[one.dtype], ITEM_SIZES[other.dtype]) > 1
    for _, raws in _chunks([one, other], one.elements):
        mine, theirs = (raw.view(f"u{ITEM_SIZES[t.dtype]}") for raw, t in zip(raws, (one, other), strict=True))
        with np.errstate(invalid="ignore", over="ignore"):
            if has_values:
                a, b = decode(raws[0], one.dtype), decode(raws[1], other.dtype)
                same = mine == theirs if one.dtype == other.dtype else a == b
                change = np.where(same, 0.0, b - a)
                largest = float(np.maximum(largest, np.abs(change).max()))
                squares, norm = squares + float(np.square(change).sum()), norm + float(np.square(a).sum())
            else:
                same = (mine == theirs) & (one.dtype == other.dtype)
        equal += int(np.count_nonzero(same))
    known = has_values and math.isfinite(squares) and math.isfinite(norm)
    return {
        "equal": equal / one.elements if one.elements else 1.0,
        "largest": largest if known else None,
        "distance": _ratio(math.sqrt(squares), math.sqrt(norm)) if known else None,
    }


def decode(raw: "NDArray[np.uint8]", dtype: str) -> "Values":
    """The float64 values of a tensor's bytes; dtypes of eight bits aside."""
    import numpy as np

    if dtype == "BF16":
        return (raw.view("<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    return raw.view(f"<{dtype[0].lower()}{ITEM_SIZES[dtype]}").astype(np.float64)


def rounded(values: "Values", dtype: str) -> "Values":
    """The nearest values of BF16, F16, F32 or F64, ties to even; subnormal ones too, but the range has no upper end."""
    import numpy as np

    if dtype == "F64":
        return values
    digits, smallest = _FORMATS[dtype]
    exponents = np.maximum((values.view(np.int64) >> 52) & 0x7FF, smallest + 1023)
    # 1.5 · 2^52 units of the last place: float64 has no bit left for a fraction of a unit beside it, and so rounds.
    large: Values = ((exponents + 53 - digits) << 52).view(np.float64) * 1.5
    return values + large - large


def _comparable(versions: Sequence[TensorInfo], expected: int) -> tuple[int, str | None]:
    """How many elements from the first on can be compared, and what is in the way of the others."""
    if len(versions) < expected:
        return 0, "not in all models, not measured"
    if not {tensor.dtype for tensor in versions} <= _FORMATS.keys():
        return 0, f"{', '.join(tensor.dtype for tensor in versions)}, not measured"
    if len({(bool(tensor.shape), tensor.shape[1:]) for tensor in versions}) > 1:
        return 0, f"shapes {', '.join(str(list(tensor.shape)) for tensor in versions)}, not measured"
    elements = {tensor.elements for tensor in versions}
    note = f"the first {min(elements):,} elements are measured, which all models have: rows were added"
    return min(elements), note if len(elements) > 1 else None


def _measure_tensor(versions: Sequence[TensorInfo], elements: int, weight: float, dtype: str) -> Sums:
    import numpy as np

    sums = Sums.zero(len(versions) - 1)
    for start, raws in _chunks(versions, elements):
        for tensor, raw in zip(versions, raws, strict=True):
            position = first_non_finite(raw.data, tensor.dtype)
            if position is not None:
                raise CheckpointError(f"{tensor.file}: tensor {tensor.name}: not finite at position {start + position}")
        base, *models = (decode(raw, tensor.dtype) for raw, tensor in zip(raws, versions, strict=True))
        task = np.stack(models) - base  # (M, E)
        changed = base + weight * task
        result = rounded(changed, dtype)
        differs = result != (base if dtype == versions[0].dtype else rounded(base, dtype))
        moved, survived = np.count_nonzero(task, axis=1), np.count_nonzero(differs, axis=1)
        # Not by matrix products: the threads of a BLAS add in any order, and cost more than they give.
        dots, error = np.einsum("ie,je->ij", task, task), np.square(result - changed).sum(axis=1)
        sums += Sums(base.size, float(np.square(base).sum()), dots, moved, survived, error)
    return sums


def _chunks(tensors: Sequence[TensorInfo], elements: int) -> "Iterator[tuple[int, list[NDArray[np.uint8]]]]":
    """(position of its first element, the bytes of each tensor) of one chunk after the other."""
    import numpy as np

    with Reader() as reader:
        for start in range(0, elements, CHUNK_ELEMENTS):
            count = min(CHUNK_ELEMENTS, elements - start)
            raws = [np.empty(count * ITEM_SIZES[tensor.dtype], np.uint8) for tensor in tensors]
            for tensor, raw in zip(tensors, raws, strict=True):
                reader.read_chunk(tensor, start, raw.data)
            yield start, raws


def _ratio(one: float, other: float) -> float | None:
    return float(one / other) if other else None
