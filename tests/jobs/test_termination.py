"""SIGTERM ends a job that saves no state, whoever started it and however."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bai_pipeline.jobs.runner import write_spec
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store

SPEC = JobSpec("sleep", "1", {}, {})


def start(root: Path, *wrapper: str) -> "subprocess.Popen[bytes]":
    """A job that sleeps, started by `wrapper`."""
    command = [sys.executable, "-m", "tests.resources.stand_in_jobs", write_spec(SPEC, Store(root))]
    environment = {**os.environ, "BAI_STORE": str(root)}
    return subprocess.Popen([*wrapper, *command], env=environment, stdout=subprocess.DEVNULL)


def wait_until_it_sleeps(root: Path) -> int:
    """The process id that it has for itself."""
    pid = root / "jobs" / SPEC.identity / "work" / "pid"
    deadline = time.monotonic() + 120
    while not pid.is_file() or not pid.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(pid.read_text())


def test_a_job_whose_starter_ignores_sigterm_ends_when_it_is_told(tmp_path: Path) -> None:
    with start(tmp_path, "env", "--ignore-signal=TERM") as process:
        wait_until_it_sleeps(tmp_path)
        process.terminate()
        assert process.wait(20) == -signal.SIGTERM


@pytest.mark.soak
def test_a_job_that_is_the_first_process_of_its_container_ends_when_it_is_told(tmp_path: Path) -> None:
    """In a process namespace of its own, as in a container; what saves no state ends at once."""
    with start(tmp_path, "unshare", "--pid", "--fork", "--kill-child") as outside:
        assert wait_until_it_sleeps(tmp_path) == 1
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        (inside,) = map(int, children)
        os.kill(inside, signal.SIGTERM)
        assert outside.wait(20) == 128 + signal.SIGTERM
