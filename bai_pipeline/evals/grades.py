"""What grading says of one response."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One row of a benchmark's data, as its published file has it."""


@dataclass(frozen=True)
class Grade:
    """The grade of one response to one question."""

    score: float
    """In [0, 1]."""
    extracted: str | None
    """The answer that was found in the response; None: there was none."""
    weight: float = 1.0
    """Of the question in the benchmark's mean."""
    detail: str = ""
    """Why, in a line, for the reader of the log."""
