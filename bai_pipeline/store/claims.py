"""Holding a job: only one process runs it at a time."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Claim(Protocol):
    """A job that this process holds."""

    @property
    def directory(self) -> Path:
        """The job's own directory: log, progress, and below work/ its state."""

    def save(self) -> None:
        """Make what is below work/ outlive this machine, all of it or nothing.

        Raises:
            StoreUnavailable: the job is no longer held, or the store cannot be written.
        """

    def keep(self, name: str) -> None:
        """The same for one file of the directory that is for reading only: log, progress, attempts."""

    def check(self) -> None:
        """Raise StoreUnavailable if the job is no longer held."""


@dataclass(frozen=True)
class DirectoryClaim:
    """A job of a store that is a directory: what is written there is where it belongs."""

    directory: Path

    def save(self) -> None:
        """Nothing to do."""

    def keep(self, name: str) -> None:
        """Nothing to do."""

    def check(self) -> None:
        """The lock is held until the process ends."""


@contextmanager
def locked(path: Path, logger: logging.Logger) -> Iterator[None]:
    """Hold an flock on a file; the system lets go of it when the process ends, however that comes."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process runs this very job; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
