"""Progress of a job: to the terminal or log, to Dagster (Pipes) and to `progress.json` for whoever watches."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from bai_pipeline.jobs.context import CheckOutcome
from bai_pipeline.jobspec import canonical_json
from bai_pipeline.progress import Severity
from bai_pipeline.store.files import write_atomically

_INTERVAL = 2.0
"""Seconds between two lines of progress."""
_KEEP_INTERVAL = 30.0
"""Seconds between two times that progress is shown to other machines."""


class JobReporter:
    """The `Reporter` of a job process."""

    def __init__(
        self, logger: logging.Logger, progress_file: Path, keep: Callable[[str], None] = lambda name: None
    ) -> None:
        """Report to a logger and a file.

        Args:
            keep: called with the file's name after it was written, now and then (see `store.Claim.keep`).
        """
        self._logger = logger
        self._file, self._keep, self._kept = progress_file, keep, float("-inf")
        self._start: tuple[float, int] | None = None
        self._last = 0.0
        self.checks: list[CheckOutcome] = []

    def progress(self, done: int, total: int, **numbers: float) -> None:
        """A line at most every two seconds, and always at the end; with the time left, from the units done so far."""
        now = time.monotonic()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        if done < total and now - self._last < _INTERVAL:
            return
        self._last = now
        elapsed, units = now - self._start[0], done - self._start[1]
        left = f"{elapsed / units * (total - done):.0f} s left" if units else "time left unknown"
        readings = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._logger.info(f"{done}/{total}, {left}" + (f": {readings}" if readings else ""))
        write_atomically(self._file, canonical_json({"done": done, "total": total}))
        if done == total or now - self._kept >= _KEEP_INTERVAL:
            self._kept = now
            self._keep(self._file.name)

    def log(self, message: str) -> None:
        self._logger.info(message)

    def check(self, name: str, passed: bool, *, severity: Severity = "error", **metadata: float | int | str) -> None:
        self.checks.append(CheckOutcome(name, passed, metadata, severity))
        failed = logging.ERROR if severity == "error" else logging.WARNING
        self._logger.log(logging.INFO if passed else failed, f"check {name}: {'passed' if passed else 'FAILED'}")
