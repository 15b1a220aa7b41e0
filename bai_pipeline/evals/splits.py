"""A benchmark's rows, read and checked; and written again in one form, for the store."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bai_pipeline.errors import DataError
from bai_pipeline.evals.data import has_split, read_split, validate_rows
from bai_pipeline.evals.grades import Row
from bai_pipeline.evals.registry.benchmark import Benchmark, Question, Splits

QUESTIONS = "questions.jsonl"
"""Beside the splits in the store: {id, text} of every question, whatever the benchmark's schema."""


def read_benchmark(benchmark: Benchmark, directory: Path) -> Splits:
    """The questions as the split `test`, and the benchmark's other splits as far as they are there.

    Raises:
        DataError: a split of the questions is absent, rows break the schema (every fault is named), or ids repeat.
    """
    mains = ("test",) if has_split(directory, "test") else benchmark.main_splits
    rows = [row for split in mains for row in read_split(directory, split)]
    validate_rows(rows, benchmark.schema, directory)
    repeated = [name for name, count in Counter(q.id for q in benchmark.questions({"test": rows})).items() if count > 1]
    if repeated:
        raise DataError(
            f"expected every question of {directory} to have an id of its own, got several with "
            f"{', '.join(repeated[:5])}; nothing was evaluated"
        )
    others = {name: read_split(directory, name) for name in benchmark.other_splits if has_split(directory, name)}
    return {"test": rows, **others}


def write_benchmark(benchmark: Benchmark, splits: Splits, out: Path) -> list[Question]:
    """Write every split as `<split>.jsonl`, and `questions.jsonl`, into an existing directory; give the questions."""
    for name, rows in splits.items():
        _write(out / f"{name}.jsonl", rows)
    questions = benchmark.questions(splits)
    _write(out / QUESTIONS, [{"id": q.id, "text": benchmark.text(q.row)} for q in questions])
    return questions


def question_texts(directory: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every question that `write_benchmark` wrote."""
    for line in (directory / QUESTIONS).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["id"], row["text"]


def _write(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
