"""Dagster runs in child processes of the demo."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from assets.demo.tasks import Task

_PR_SET_PDEATHSIG = 1
GRACE = 30.0
"""Seconds that an interrupted run has to end its job and record that it was cancelled."""


class Worker:
    """A process that executes runs, one at a time: see `assets.demo.worker`."""

    def __init__(self, log: Path) -> None:
        """Start the process; what it says outside of runs goes to `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "assets.demo.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                text=True,
                bufsize=1,
                start_new_session=True,  # ctrl-C reaches the demo only, which then interrupts each run once
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # safe: the demo has no other thread
            )

    def start(self, order: dict[str, object]) -> None:
        """Have a run executed."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended: `answer` says how
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def answer(self) -> int | None:
        """The exit code of the run, or of the process if that ended; None while the run goes on."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], 0)[0]:
            return None
        line = self._process.stdout.readline()
        return int(line) if line else self._process.wait() or 1

    def interrupt(self) -> None:
        """Cancel the run, as ctrl-C would, and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def close(self) -> int:
        """End, at once if there is no run; the exit code."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and an order waits for it still
            self._process.stdin.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its job ends with it (BAI_DIE_WITH_PARENT)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.returncode


class Run:
    """A Dagster run of one task; its output goes to a file."""

    def __init__(self, task: Task, worker: Worker) -> None:
        self.task, self.worker = task, worker
        self.log = worker.log.with_name(f"{task.name.replace(' ', '-')}.log")
        self.log.write_text("")
        worker.start({"assets": task.assets, "partition": task.alpha, "log": str(self.log)})

    def poll(self) -> int | None:
        """The exit code, once; None while it runs."""
        code = self.worker.answer()
        if code and not self.log.stat().st_size:
            self.log = self.worker.log  # it never came to the run
        return code


def _die_with_parent() -> None:
    """A demo that is killed leaves no run behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
