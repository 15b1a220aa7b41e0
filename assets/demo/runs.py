"""Dagster runs as child processes of the demo."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from assets.demo.tasks import Task

_PR_SET_PDEATHSIG = 1
GRACE = 30.0
"""Seconds that an interrupted run has to end its job and record that it was cancelled."""


class Run:
    """A Dagster run of one task; its output goes to a file."""

    def __init__(self, task: Task, directory: Path) -> None:
        self.task = task
        self.log = directory / f"{task.name.replace(' ', '-')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "assets.definitions", *task.arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                start_new_session=True,  # ctrl-C reaches the demo only, which then interrupts each run once
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # safe: the demo has no other thread
            )

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Cancel the run, as ctrl-C would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait_or_kill(self) -> None:
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its job ends with it (BAI_DIE_WITH_PARENT)
            self._process.wait()


def _die_with_parent() -> None:
    """A demo that is killed leaves no run behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
