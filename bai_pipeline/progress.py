"""How a stage tells the world how far it is."""

from typing import Literal, Protocol

Severity = Literal["error", "warn"]


class Reporter(Protocol):
    """What a stage is given to report with; jobs/ implements it over Dagster Pipes and the terminal."""

    def progress(self, done: int, total: int, **numbers: float) -> None:
        """`done` of `total` units are finished; `numbers` are the newest readings (loss, length, …)."""

    def log(self, message: str) -> None:
        """A line for the log."""

    def check(self, name: str, passed: bool, *, severity: Severity = "error", **metadata: float | int | str) -> None:
        """The outcome of a data-quality check made inside the job; becomes a Dagster asset check."""


class SilentReporter:
    """Says nothing; for library use and tests."""

    def progress(self, done: int, total: int, **numbers: float) -> None:
        return None

    def log(self, message: str) -> None:
        return None

    def check(self, name: str, passed: bool, *, severity: Severity = "error", **metadata: float | int | str) -> None:
        return None
