"""Whether the contestants' outputs are right: equal to each other, or as close as bf16 allows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Closeness:
    """Values of one output beside those of ours and those of a float64 sum."""

    values: int = 0
    equal_to_ours: int = 0
    within_rounding: int = 0
    """Within 2^-7 of Σ wᵢ|xᵢ| from ours: what rounding weights, products, the sum and a quotient to bf16 can make."""
    nearest: int = 0
    """Equal to the float64 sum, rounded once."""

    def shares(self) -> dict[str, float]:
        counts = {"equal_to_ours": self.equal_to_ours, "within_rounding": self.within_rounding, "nearest": self.nearest}
        return {"values": self.values, **{name: count / self.values for name, count in counts.items()}}


def same_files(left: Path, right: Path) -> bool:
    """Whether two checkpoints have the same safetensors files, bit for bit."""
    names = [sorted(file.name for file in path.glob("*.safetensors")) for path in (left, right)]
    return names[0] == names[1] and bool(names[0]) and all(_same(left / name, right / name) for name in names[0])


def closeness(
    inputs: Sequence[Path], weights: Sequence[float], ours: Path, others: Mapping[str, Path]
) -> dict[str, dict[str, float]]:
    """How close each output is, ours included, in one pass over all of them."""
    import torch

    with ExitStack() as stack:
        models = [stack.enter_context(Tensors(path)) for path in inputs]
        outputs = {name: stack.enter_context(Tensors(path)) for name, path in {"ours": ours, **others}.items()}
        found = {name: Closeness() for name in outputs}
        for name in models[0].names:
            parts = [model.get(name).double().mul_(weight) for model, weight in zip(models, weights, strict=True)]
            exact = torch.stack(parts).sum(dim=0).bfloat16()
            tolerance = torch.stack([part.abs_() for part in parts]).sum(dim=0).mul_(2.0**-7)
            mine = outputs["ours"].get(name)
            for title, output in outputs.items():
                its, counts = output.get(name), found[title]
                counts.values += its.numel()
                counts.equal_to_ours += int((its.view(torch.int16) == mine.view(torch.int16)).sum())
                counts.within_rounding += int(((its.double() - mine.double()).abs_() <= tolerance).sum())
                counts.nearest += int((its == exact).sum())
    return {name: counts.shares() for name, counts in found.items()}


class Tensors:
    """The bf16 tensors of a checkpoint by the names that OLMoE's have, also where the experts of a layer are packed."""

    def __init__(self, path: Path) -> None:
        self._files = sorted(path.glob("*.safetensors"))
        self._stack = ExitStack()
        self._holders: dict[str, Any] = {}

    def __enter__(self) -> Self:
        from safetensors import safe_open

        for file in self._files:
            opened = self._stack.enter_context(safe_open(file, framework="pt"))
            self._holders |= dict.fromkeys(opened.keys(), opened)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> Iterator[str]:
        yield from self._holders

    def get(self, name: str) -> "Tensor":
        """A tensor; an expert's is cut from `gate_up_proj` (E, 2I, H) or `down_proj` (E, H, I) where they are packed.

        Raises:
            KeyError: the checkpoint has it under neither name.
        """
        if name in self._holders:
            tensor: Tensor = self._holders[name].get_tensor(name)
            return tensor
        prefix, _, rest = name.partition(".experts.")
        expert, projection, _ = rest.split(".")
        packed = f"{prefix}.experts.{'down_proj' if projection == 'down_proj' else 'gate_up_proj'}"
        view = self._holders[packed].get_slice(packed)
        half = view.get_shape()[1] // 2
        rows = {"gate_proj": slice(0, half), "up_proj": slice(half, None), "down_proj": slice(None)}[projection]
        part: Tensor = view[int(expert), rows]
        return part


def _same(left: Path, right: Path) -> bool:
    with left.open("rb") as one, right.open("rb") as other:
        while True:
            chunks = one.read(1 << 22), other.read(1 << 22)
            if chunks[0] != chunks[1]:
                return False
            if not chunks[0]:
                return True
