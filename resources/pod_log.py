"""The log of a pod, read piece by piece: Pipes messages to Dagster, everything else to the job's log and the run's.

A pod's log is asked for again and again, each time from a little before the last line that is known: a stream that
breaks is a request that is repeated. A line is known by its time stamp, and where lines share one by its number among
them. How far `log.txt` has got is written beside it, so that a process that takes over a running pod (or one that reads
the same pod for another run) writes no line again.
"""

import fcntl
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dagster_k8s.pipes import PipesK8sPodLogsMessageReader
from dagster_pipes import PIPES_PROTOCOL_VERSION_FIELD

from bai_pipeline.store.files import write_atomically
from resources.cluster_api import Cluster, seconds_since
from resources.compute import TAIL_LINES

MARGIN = 60
"""Seconds that are read twice, for clocks that differ and lines that come late."""
Key = tuple[str, int]
"""A line's time stamp, with nine digits of a second, and its number among the lines that share it."""


class PodLogReader(PipesK8sPodLogsMessageReader):
    """Takes Pipes messages from lines that `LogCopy` reads."""

    def accept(self, line: str) -> bool:
        """Whether a line is a Pipes message; if it is, Dagster has it."""
        if PIPES_PROTOCOL_VERSION_FIELD not in line:
            return False
        try:
            message = json.loads(line)
        except ValueError:
            return False
        handler = getattr(self, "_handler", None)  # there is one while a session is open
        if handler is not None:
            handler.handle_message(message)
        return True


class LogCopy:
    """Copies one pod's log to a file of the job's directory."""

    def __init__(
        self, cluster: Cluster, pod: str, uid: str, container: str, file: Path, accept: Callable[[str], bool]
    ) -> None:
        """
        Args:
            accept: takes a line for itself if it is not text (a Pipes message).
        """
        self._cluster, self._pod, self._uid, self._container = cluster, pod, uid, container
        self._file, self._accept = file, accept
        self._seen: Key = ("", 0)
        self._read_at: float | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def catch_up(self, *, whole: bool = False) -> None:
        """Copy what is new.

        Args:
            whole: the container has ended, so that a last line without its end will get none.

        Raises:
            ApiFault: the log cannot be read.
        """
        since = None if self._read_at is None else seconds_since(self._read_at) + MARGIN
        asked_at = time.monotonic()
        text = self._cluster.log(self._pod, self._container, since, attempts=3 if whole else 1)
        if text is None:
            return
        self._read_at = asked_at
        fresh = [(key, line) for key, line in parsed(text, whole=whole) if key > self._seen]
        if not fresh:
            return
        self._seen = fresh[-1][0]
        shown = [(key, line) for key, line in fresh if not self._accept(line)]
        self.tail.extend(line for _, line in shown)
        sys.stdout.writelines(f"{line}\n" for _, line in shown)
        sys.stdout.flush()
        with _position(self._file, self._uid) as position:
            with self._file.open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for key, line in shown if key > position.key)
            position.key = max(position.key, self._seen)


def parsed(text: str, *, whole: bool = False) -> Iterator[tuple[Key, str]]:
    """The lines of a log with time stamps; without `whole`, a line that has no end yet is left for the next time."""
    *lines, rest = text.split("\n")
    if whole and rest:
        lines.append(rest)
    last, number = "", 0
    for entry in lines:
        stamp, _, line = entry.partition(" ")
        stamp = nanoseconds(stamp)
        number = number + 1 if stamp == last else 0
        last = stamp
        yield (stamp, number), line


def nanoseconds(stamp: str) -> str:
    """A time stamp with nine digits of a second, whatever the container runtime cut off: texts then sort like times."""
    moment, _, fraction = stamp.removesuffix("Z").partition(".")
    return f"{moment}.{fraction.ljust(9, '0')}"


class _Position:
    def __init__(self, key: Key) -> None:
        self.key = key


@contextmanager
def _position(log: Path, uid: str) -> Iterator[_Position]:
    """How far a file has the log of the pod `uid`; held by one process at a time, and kept when it is given back."""
    path = log.with_suffix(".positions.json")
    with log.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        position = _Position(tuple(known.get(uid, ("", 0))))
        yield position
        write_atomically(path, json.dumps({**known, uid: position.key}))
