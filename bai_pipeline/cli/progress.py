"""Progress of a command: a bar with bytes a second and time left where a person watches, else nothing but the log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bai_pipeline.progress import Reporter, SilentReporter

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_to_stderr(*, quiet: bool = False, of_bytes: bool = True) -> Iterator[Reporter]:
    """A reporter of bytes, or of things that are counted.

    Args:
        quiet: say nothing at all.
    """
    if quiet:
        yield SilentReporter()
    elif not sys.stderr.isatty():
        yield LineReporter()
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
        with Progress(BarColumn(), *amount, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            yield BarReporter(bar)


class LineReporter(SilentReporter):
    """Notes only, a line each."""

    def log(self, message: str) -> None:
        print(message, file=sys.stderr)


class BarReporter(SilentReporter):
    """A bar of rich."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None)

    def progress(self, done: int, total: int, **numbers: float) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def log(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False)
