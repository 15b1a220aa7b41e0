"""Jobs as subprocesses: what they get, how their failures are told, that none outlives its run."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import pytest

from bai_pipeline.jobs.runner import read_result
from bai_pipeline.store import Store
from resources import Finished, LocalCompute, LocalSettings
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import COMMAND, spec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def compute() -> LocalCompute:
    return LocalCompute(LocalSettings(command=COMMAND))


def failure_of(compute: LocalCompute, kind: str, store: Store) -> dg.Failure:
    outcome = run(compute, spec(kind), store)
    assert isinstance(outcome, dg.Failure)
    return outcome


def test_a_job_gets_one_thread_no_network_and_the_store(compute: LocalCompute, store: Store) -> None:
    finished = run(compute, spec("answer"), store)
    assert isinstance(finished, Finished)
    assert finished.result.metadata == {
        "score": 0.5,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "BAI_STORE": str(store.root),
    }
    assert (store.open(finished.result.object) / "answer.txt").read_text() == "42"


def test_a_job_that_is_done_is_reused(compute: LocalCompute, store: Store) -> None:
    first, second = (run(compute, spec("answer"), store) for _ in range(2))
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (first.reused, second.reused) == (False, True)
    assert first.result == second.result


def test_the_output_of_a_job_is_in_its_log(compute: LocalCompute, store: Store) -> None:
    run(compute, spec("answer"), store)
    log = store.job_directory(spec("answer").identity) / "log.txt"
    assert "the answer is coming" in log.read_text().splitlines()


def test_a_crash_is_told_with_the_last_lines_of_the_log_and_may_be_retried(compute: LocalCompute, store: Store) -> None:
    failure = failure_of(compute, "crash", store)
    assert failure.description is not None
    log = store.job_directory(spec("crash").identity) / "log.txt"
    assert f"failed with exit code 1; its log is {log} and ends with:" in failure.description
    assert failure.description.splitlines()[-1].strip() == "ZeroDivisionError: a bug"
    assert "line 99" in failure.description
    assert "line 1\n" not in failure.description
    assert failure.allow_retries


def test_a_refusal_is_not_retried(compute: LocalCompute, store: Store) -> None:
    failure = failure_of(compute, "refuse", store)
    assert failure.description is not None
    assert "refused its input; its log is" in failure.description
    assert failure.description.endswith("DataError: prompts.parquet holds no rows; a prompts table needs at least one")
    assert not failure.allow_retries


def test_a_kill_is_named_and_may_be_retried(compute: LocalCompute, store: Store) -> None:
    failure = failure_of(compute, "killed", store)
    assert "was killed by SIGKILL" in str(failure.description)
    assert failure.allow_retries


def test_a_job_that_ends_well_without_a_result_has_failed(compute: LocalCompute, store: Store) -> None:
    assert "ended without a result in the store" in str(failure_of(compute, "vanish", store).description)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_job_ends_with_the_run_that_started_it(sent: signal.Signals, store: Store) -> None:
    """SIGINT is ctrl-C, SIGTERM a polite end; after SIGKILL only the kernel can tell the job."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.resources.one_run", str(store.root), "sleep"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as parent:
        pid = wait_for_pid(store)
        parent.send_signal(sent)
        parent.wait(30)
    wait_for_end(pid)
    assert read_result(spec("sleep"), store) is None


def test_a_job_that_ignores_sigterm_is_killed(store: Store) -> None:
    job = spec("sleep", stubborn=True)
    compute = LocalCompute(LocalSettings(command=COMMAND, termination_grace=0.5))
    pid_file = store.job_directory(job.identity) / "work" / "pid"
    previous = signal.signal(signal.SIGUSR1, _cancel)
    threading.Thread(target=_signal_when_written, args=(pid_file,), daemon=True).start()
    try:
        with pytest.raises(_CancelledError):
            run(compute, job, store)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    wait_for_end(int(pid_file.read_text()))


class _CancelledError(BaseException):
    pass


def _cancel(number: int, frame: object) -> None:
    raise _CancelledError


def _signal_when_written(path: Path) -> None:
    wait_for_file(path)
    os.kill(os.getpid(), signal.SIGUSR1)


def wait_for_pid(store: Store) -> int:
    path = store.job_directory(spec("sleep").identity) / "work" / "pid"
    wait_for_file(path)
    return int(path.read_text())


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline, "the job never started"
        time.sleep(0.05)


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} outlived its run"
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
