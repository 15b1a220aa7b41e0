"""Which rows of the embedding and the output head a merged checkpoint has, and from whom those that a model lacks come.

A base model and what was trained from it differ here: tokens were added (`<think>`, chat markers), and the matrix was
resized, or had been padded to a round number of rows, of which those without a token were never trained.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bai_pipeline.checkpoints.architecture import vocabulary_size
from bai_pipeline.checkpoints.checkpoint import Checkpoint
from bai_pipeline.checkpoints.directory import CONFIG_FILE
from bai_pipeline.checkpoints.header import TensorInfo
from bai_pipeline.checkpoints.listing import Findings, as_ranges, is_numbered, quoted, show_rows
from bai_pipeline.checkpoints.vocabulary import Vocabulary, lacking_tokens

_POSITIONS = re.compile(r"(?:^|[._])(?:wpe|positions?|token_type)(?:[._]|$)")

Range = tuple[int, int]


@dataclass
class Rows(Findings):
    """What becomes of the rows."""

    count: int | None = None
    """In the merged checkpoint; None: as in the first model."""
    missing: tuple[Range, ...] = ()
    """Half-open ranges of rows that are the donor's, ascending and disjoint."""


def vocabulary_tensors(models: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    """The tensors with one row (or element) a token: their first dimension is every model's own `vocab_size`.

    That they follow it where it differs is proof. Where it is the same in all models another dimension may happen to
    have that size: then a tensor of a numbered layer does not count, nor a bias or norm without a matrix beside it.
    """
    first = next(iter(models.values()))
    sizes = {name: vocabulary_size(checkpoint) for name, checkpoint in models.items()}
    found = [
        tensor
        for name, tensor in first.tensors.items()
        if all(has_rows(models[model].tensors.get(name), size, tensor.shape[1:]) for model, size in sizes.items())
    ]
    if len(set(sizes.values())) == 1:
        found = [tensor for tensor in found if not is_numbered(tensor.name) and not _POSITIONS.search(tensor.name)]
        matrices = {_parent(tensor.name) for tensor in found if len(tensor.shape) > 1}
        found = [tensor for tensor in found if _parent(tensor.name) in matrices]
    return tuple(tensor.name for tensor in found)


def has_rows(tensor: TensorInfo | None, rows: int | None, width: tuple[int, ...]) -> bool:
    """Whether the tensor is there and has so many rows, each of this shape."""
    return tensor is not None and tensor.shape == (rows, *width)


def compare_rows(
    models: Mapping[str, Checkpoint],
    merged: Sequence[str],
    tensors: Sequence[str],
    vocabularies: Mapping[str, Vocabulary | None],
    donor: str | None,
) -> Rows:
    """The rows of the merged models' vocabulary tensors.

    Row r is missing in a model whose tensors have fewer rows, and in one whose tokenizer has no token r where the
    donor's has: the row is padding there, and was never trained.

    Args:
        models: all; the first is one of `merged`.
        tensors: the vocabulary tensors of `merged`.
        donor: the merged model whose rows stand in where another has none; None: no rows may be missing.
    """
    sizes = {name: vocabulary_size(checkpoint) for name, checkpoint in models.items()}
    rows = sizes[donor] if donor is not None else None
    if donor is None or rows is None or not tensors:
        advice = ""
        if tensors:
            sizes = {name: sizes[name] for name in merged}
            advice = f", and so are the rows of {', '.join(tensors)}: name a model for missing_rows_from, whose rows "
            advice += "then stand in where another has none"
        return _compare_sizes(sizes, advice)
    found = Rows(count=rows if rows != sizes[next(iter(models))] else None)
    untrained: set[int] = set()
    present = rows
    for name in merged:
        if name != donor:
            pair = _Pair(name, sizes[name] or 0, vocabularies[name], donor, rows, vocabularies[donor])
            untrained |= pair.untrained.keys()
            present = min(present, pair.rows)
            found.notes += pair.notes()
    found.missing = tuple(_with_tail(untrained, present, rows))
    return found


def compare_ids(name: str, size: int | None, vocabulary: Vocabulary | None, place: str = "vocab_size") -> list[str]:
    """The difference when the tokenizer has a token without a row."""
    if vocabulary is None or not vocabulary.ids or size is None:
        return []
    token = max(vocabulary.ids, key=lambda token: vocabulary.ids[token])
    number = vocabulary.ids[token]
    return [f"tokenizer: token {token!r} of {name} has id {number}, but {place} is {size}"] if number >= size else []


def _compare_sizes(sizes: Mapping[str, int | None], advice: str) -> Rows:
    found = Rows()
    (first, one), *others = sizes.items()
    for name, size in others:
        if size != one:
            shown, other = ("absent" if value is None else value for value in (one, size))
            line = f"{CONFIG_FILE}: vocab_size is {shown} in {first}, {other} in {name}"
            if one is None or size is None:
                found.notes.append(line)
            else:
                found.differences.append(line + advice)
    return found


@dataclass(frozen=True)
class _Pair:
    """A merged model and the donor: names, rows and tokenizers."""

    model: str
    rows: int
    vocabulary: Vocabulary | None
    donor: str
    donor_rows: int
    donor_vocabulary: Vocabulary | None

    @property
    def untrained(self) -> dict[int, str]:
        """Rows of the donor with a token that the model has not."""
        return _lacking(self.donor_vocabulary, self.vocabulary, self.donor_rows)

    def notes(self) -> Iterator[str]:
        untrained = self.untrained
        absent = _without(self.rows, self.donor_rows, untrained)
        if untrained:
            come, tokens = ("comes", "token") if len(untrained) == 1 else ("come", "tokens")
            yield f"{_named(untrained)} {come} from {self.donor}: {self.model} has no such {tokens}"
        if absent:
            one = len(absent) == 1 and absent[0][1] == absent[0][0] + 1
            come, rows = ("comes", "row") if one else ("come", "rows")
            yield f"{show_rows(absent)} {come} from {self.donor}: {self.model} has no such {rows}"
        diluted = _lacking(self.vocabulary, self.donor_vocabulary, self.donor_rows)
        if diluted:
            yield f"{_named(diluted)} of {self.model}: merged with rows of {self.donor}, which has no such tokens"
        if self.rows > self.donor_rows:
            yield (
                f"{show_rows([(self.donor_rows, self.rows)])} of {self.model}: cut off, {self.donor} has "
                f"{self.donor_rows}; {self._lost()}"
            )

    def _lost(self) -> str:
        if self.vocabulary is None:
            return f"the tokenizer of {self.model} is not readable"
        lost = [token for token, number in self.vocabulary.ids.items() if number >= self.donor_rows]
        return f"{len(lost)} tokens are lost: {quoted(lost)}" if lost else "no token is lost"


def _lacking(one: Vocabulary | None, other: Vocabulary | None, rows: int) -> dict[int, str]:
    """Rows before `rows` of the tokens that only `one` has; none when a tokenizer cannot be read."""
    if one is None or other is None:
        return {}
    return {one.ids[token]: token for token in lacking_tokens(one, other) if one.ids[token] < rows}


def _with_tail(rows: Iterable[int], first: int, stop: int) -> list[Range]:
    """The ranges of some rows and of all from `first` on: the tail, which may be long, is never listed."""
    ranges = as_ranges(row for row in rows if row < first)
    if first >= stop:
        return ranges
    if ranges and ranges[-1][1] == first:
        first = ranges.pop()[0]
    return [*ranges, (first, stop)]


def _without(first: int, stop: int, rows: Iterable[int]) -> list[Range]:
    """The ranges of the rows from `first` to before `stop` that are none of these."""
    ranges: list[Range] = []
    for row in sorted(row for row in rows if first <= row < stop):
        if row > first:
            ranges.append((first, row))
        first = row + 1
    return [*ranges, (first, stop)] if first < stop else ranges


def _named(tokens: Mapping[int, str]) -> str:
    return f"{show_rows(as_ranges(tokens))} ({quoted(tokens.values())})"


def _parent(tensor: str) -> str:
    return tensor.rpartition(".")[0]
