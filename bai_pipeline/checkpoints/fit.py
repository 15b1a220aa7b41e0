"""Do checkpoints fit together? Compared with the first: tensors, architecture, tokenizer; every difference at once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from bai_pipeline.checkpoints.architecture import compare_configs, compare_generation, vocabulary_size
from bai_pipeline.checkpoints.checkpoint import Checkpoint
from bai_pipeline.checkpoints.listing import Findings, collapsed, numberless
from bai_pipeline.checkpoints.rows import compare_ids, compare_rows, has_rows, vocabulary_tensors
from bai_pipeline.checkpoints.tensor_names import compare_names, find_duplicates
from bai_pipeline.checkpoints.vocabulary import compare_vocabularies, read_vocabulary
from bai_pipeline.errors import FitError

FLOATS: Final = frozenset({"F32", "BF16", "F16"})
"""Dtypes that are merged with each other."""

_LISTED = 30


@dataclass(frozen=True)
class FitReport:
    """How checkpoints differ, and what a merge of them has to do about it."""

    differences: tuple[str, ...]
    """They forbid combining the checkpoints."""
    notes: tuple[str, ...]
    """Worth knowing."""
    rows: int | None = None
    """Of the vocabulary tensors in the merged checkpoint, and its vocab_size; None: as in the first model."""
    vocabulary_tensors: tuple[str, ...] = ()
    """Embedding and output head: what has one row (or element) a token."""
    missing_rows: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Half-open row ranges by vocabulary tensor, ascending and disjoint, that are copied from the donor because not
    every merged model has them."""
    donor: str | None = None
    """The model whose rows are copied; None when none are missing."""
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Tensors of a merged model that only repeat another one (tied embeddings): neither merged nor written."""


def check_fit(
    models: Mapping[str, Checkpoint],
    *,
    merged: Sequence[str] | None = None,
    missing_rows_from: str | None = None,
    tokenizer_from: str | None = None,
) -> FitReport:
    """Make sure that the models can be combined tensor by tensor; see `compare`.

    Raises:
        FitError: they cannot; the message names the directories and lists the differences, the first 30 in full.
    """
    report = compare(models, merged=merged, missing_rows_from=missing_rows_from, tokenizer_from=tokenizer_from)
    if report.differences:
        found, more = report.differences, len(report.differences) - _LISTED
        lines = [f"\n  - {line}" for line in found[:_LISTED]] + ([f"\n  … and {more} more"] if more > 0 else [])
        places = ", ".join(f"{name} in {checkpoint.path}" for name, checkpoint in models.items())
        raise FitError(
            f"checkpoints do not fit together ({places}), {len(found)} difference(s); nothing was written:"
            + "".join(lines)
        )
    return report


def compare(
    models: Mapping[str, Checkpoint],
    *,
    merged: Sequence[str] | None = None,
    missing_rows_from: str | None = None,
    tokenizer_from: str | None = None,
) -> FitReport:
    """Every difference of the models from the first of them. Reads headers, configs and tokenizers.

    Of the tensors it reads a head that only some models store, and the embedding beside it.

    Args:
        models: by name; the first is the one that the others are compared with.
        merged: those whose tensors are combined, the first among them; None: all. Another is there for its tokenizer.
        missing_rows_from: the merged model whose embedding rows stand in where another has none, and whose number of
            rows is that of the merged checkpoint; None: no rows may be missing.
        tokenizer_from: whose tokenizer the merged checkpoint gets; None: of those that are not merged.
    """
    merged = tuple(models) if merged is None else tuple(merged)
    first, *others = models
    vocabularies = {name: read_vocabulary(checkpoint.path) for name, checkpoint in models.items()}
    sizes = {name: vocabulary_size(checkpoint) for name, checkpoint in models.items()}
    found = Findings([line for name in models for line in compare_ids(name, sizes[name], vocabularies[name])])
    for other in others:
        found += compare_configs(first, models[first], other, models[other])
        found += compare_generation(first, models[first], other, models[other])
    found += compare_vocabularies(vocabularies)

    if missing_rows_from is not None and missing_rows_from not in merged:
        expected = ", ".join(merged)
        found.differences.append(f"missing_rows_from is {missing_rows_from!r}, expected a merged model: {expected}")
        missing_rows_from = None
    tensors = vocabulary_tensors({name: models[name] for name in merged})
    rows = compare_rows(models, merged, tensors, vocabularies, missing_rows_from)
    found += rows
    for name in [tokenizer_from] if tokenizer_from is not None else [name for name in models if name not in merged]:
        count = rows.count or sizes[first]
        if sizes[name] != count:
            found.differences += compare_ids(name, count, vocabularies[name], "vocab_size of the merged checkpoint")

    duplicates = find_duplicates({name: models[name] for name in merged})
    found += duplicates
    for other in others:
        known = duplicates.names
        if other not in merged:
            pair = find_duplicates({first: models[first], other: models[other]})
            known = known | pair.names
            found.differences += pair.differences
        found.differences += compare_names(first, models[first], other, models[other], known)
        found += _compare_tensors(first, models[first], other, models[other], tensors)
    return FitReport(
        tuple(found.differences),
        tuple(found.notes),
        rows.count,
        tensors,
        dict.fromkeys(tensors, rows.missing) if rows.missing else {},
        missing_rows_from if rows.missing else None,
        duplicates.of,
    )


def _compare_tensors(
    left: str, one: Checkpoint, right: str, other: Checkpoint, vocabulary: Collection[str]
) -> Findings:
    """Shapes and dtypes of what both have; the rows of vocabulary tensors may be as many as each one's config says."""
    size = vocabulary_size(other)
    shapes: list[tuple[str, str]] = []
    dtypes: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for name, mine in one.tensors.items():
        theirs = other.tensors.get(name)
        if theirs is None:
            continue
        resized = name in vocabulary and has_rows(theirs, size, mine.shape[1:])
        if mine.shape != theirs.shape and not resized:
            line = f"tensor {name} has shape {list(mine.shape)} in {left}, {list(theirs.shape)} in {right}"
            shapes.append((numberless(name), line))
        if mine.dtype != theirs.dtype:
            line = f"tensor {name} has dtype {mine.dtype} in {left}, {theirs.dtype} in {right}"
            kind = f"{mine.dtype} and {theirs.dtype}"
            (notes if {mine.dtype, theirs.dtype} <= FLOATS else dtypes).append((kind, line))
    return Findings(collapsed(shapes) + collapsed(dtypes), collapsed(notes))
