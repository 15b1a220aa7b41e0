"""Which tensors checkpoints have: the same ones, one of them twice, experts packed or one by one, or others."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from bai_pipeline.checkpoints.architecture import says_tied, vocabulary_size
from bai_pipeline.checkpoints.checkpoint import Checkpoint, Reader
from bai_pipeline.checkpoints.header import TensorInfo
from bai_pipeline.checkpoints.listing import Findings, collapsed, is_numbered, numberless

_PACKED = re.compile(r"(?:^|\.)experts\.(?!\d+\.)")
_PER_EXPERT = re.compile(r"(?:^|\.)experts\.\d+\.")


@dataclass
class Duplicates(Findings):
    """Tensors that some models store twice under two names, where others store them once."""

    names: set[str] = field(default_factory=set)
    """Everything that is dealt with here, and so is no longer a tensor that is missing somewhere."""
    of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Those of each model that are to be left out."""


def find_duplicates(models: Mapping[str, Checkpoint]) -> Duplicates:
    """Output heads that only some models store, compared byte by byte with the embedding to which they are tied.

    Where the first model stores the head too it must be known to work without: its config stays as it is.
    """
    found = Duplicates()
    tied = {model: says_tied(checkpoint) for model, checkpoint in models.items()}
    first_says = tied[next(iter(models))]
    common = set.intersection(*(set(checkpoint.tensors) for checkpoint in models.values()))
    embeddings = {model: _embeddings(checkpoint, common) for model, checkpoint in models.items()}
    for name in sorted({name for checkpoint in models.values() for name in checkpoint.tensors} - common):
        having = {model: checkpoint for model, checkpoint in models.items() if name in checkpoint.tensors}
        lacking = [model for model in models if model not in having]
        ties = [tied[model] for model in lacking]
        # What the architecture does of itself it does without a head in another model of the same silence.
        first_is_tied = first_says or (first_says is None and None in ties)
        if False in ties or not first_is_tied or is_numbered(name):
            continue
        twins = {
            model: [twin for twin in embeddings[model] if twin.shape == checkpoint.tensors[name].shape]
            for model, checkpoint in having.items()
        }
        if not all(twins.values()):
            continue
        found.names.add(name)
        for model, checkpoint in having.items():
            head = checkpoint.tensors[name]
            twin = next((twin for twin in twins[model] if _same_bytes(head, twin)), None)
            if twin is None:
                found.differences.append(
                    f"tensor {name} of {model} is not its {twins[model][0].name}: the head is untied there, and tied "
                    f"in {', '.join(lacking)}, where there is no such tensor"
                )
            else:
                found.of[model] = (*found.of.get(model, ()), name)
                found.notes.append(
                    f"tensor {name} of {model} repeats {twin.name} (tied, and stored once in {', '.join(lacking)}): it "
                    "is left out"
                )
    return found


def compare_names(left: str, one: Checkpoint, right: str, other: Checkpoint, known: Collection[str]) -> Iterator[str]:
    """Tensors that only one of two models has, those aside that are `known`."""
    only_left = sorted(one.tensors.keys() - other.tensors.keys() - set(known))
    only_right = sorted(other.tensors.keys() - one.tensors.keys() - set(known))
    for packed_in, packed, single_in, single in (
        (left, only_left, right, only_right),
        (right, only_right, left, only_left),
    ):
        all_at_once = [name for name in packed if _PACKED.search(name)]
        one_by_one = [name for name in single if _PER_EXPERT.search(name)]
        if all_at_once and one_by_one:
            packed[:] = [name for name in packed if not _PACKED.search(name)]
            single[:] = [name for name in single if not _PER_EXPERT.search(name)]
            yield (
                f"experts are packed in {packed_in} ({all_at_once[0]}) and one tensor each in {single_in} "
                f"({one_by_one[0]}): save one of them anew; in transformers, save_pretrained writes those of "
                f"{packed_in} one tensor each when the model was made by from_config and load_state_dict "
                "(from_pretrained keeps them packed), and with save_original_format=False it packs those of "
                f"{single_in}"
            )
    for names, tensors, present, absent in (
        (only_left, one.tensors, left, right),
        (only_right, other.tensors, right, left),
    ):
        yield from collapsed(
            (numberless(name), f"tensor {name} is missing in {absent} (it is in {present}, {tensors[name].file.name})")
            for name in names
        )


def _embeddings(checkpoint: Checkpoint, common: Collection[str]) -> list[TensorInfo]:
    """The matrices of one row a token that a head may repeat, in the order of the files."""
    rows = vocabulary_size(checkpoint)
    return [
        tensor
        for tensor in checkpoint.tensors.values()
        if tensor.name in common and len(tensor.shape) == 2 and tensor.shape[0] == rows and not is_numbered(tensor.name)
    ]


def _same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    if one.dtype != other.dtype:
        return False
    # One reader each: a chunk is valid until the reader's next.
    with Reader() as mine, Reader() as theirs:
        return all(chunk == twin for chunk, twin in zip(mine.chunks(one), theirs.chunks(other), strict=True))
