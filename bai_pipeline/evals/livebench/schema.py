"""What a row must have for its grader, and how a row that has not is described."""

from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from bai_pipeline.evals.grades import Row

SHOWN = 60
"""Characters of a value that a message quotes."""


class Fault(NamedTuple):
    """One field of a row that a grader could not use."""

    field: str
    expected: str
    found: str


def fault(row: Row, field: str, expected: str) -> Fault:
    """The fault of a field, with the value that it has, shortened, or that it has none."""
    if field not in row:
        return Fault(field, expected, "no such field")
    found = repr(row[field])
    return Fault(field, expected, found if len(found) <= SHOWN else f"{found[:SHOWN]}…")


def is_text(value: object) -> bool:
    """Whether a value is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def truth_faults(row: Row) -> Iterator[Fault]:
    """A fault unless there is a ground truth."""
    if not is_text(row.get("ground_truth")):
        yield fault(row, "ground_truth", "a text that is not empty")


def question_of(row: Row) -> str:
    """The question that was asked: the row's only turn."""
    return str(row["turns"][0])


def day(value: object) -> str | None:
    """The day of a date, a time or a text that begins with one, as YYYY-MM-DD; None for anything else."""
    text = value.isoformat() if isinstance(value, date) else value
    try:
        return date.fromisoformat(text[:10]).isoformat() if isinstance(text, str) else None
    except ValueError:
        return None
