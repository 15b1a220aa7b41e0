"""Job processes whose store is in object storage."""

import os
import signal
import subprocess
import time

import obstore
import pytest
from obstore.exceptions import GenericError

from bai_pipeline.errors import StoreUnavailable
from bai_pipeline.jobs.__main__ import main
from bai_pipeline.jobs.runner import EXIT_CRASHED, read_result, write_spec
from resources import Finished, LocalCompute, LocalSettings
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import COMMAND, spec
from tests.store.object_storage import Machines, files_of


def test_a_job_is_run_by_one_machine_and_done_for_all(machines: Machines) -> None:
    compute = LocalCompute(LocalSettings(command=COMMAND))
    finished = run(compute, spec("answer"), machines.be("one"))
    assert isinstance(finished, Finished)
    assert not finished.reused
    assert finished.result.metadata["BAI_STORE"] == machines.location
    store = machines.be("one")
    assert store.environment == {"BAI_STORE": machines.location, "BAI_STORE_CACHE": os.environ["BAI_STORE_CACHE"]}
    assert (store.root / "jobs" / spec("answer").identity / "result.json").is_file()
    store = machines.be("two")
    assert read_result(spec("answer"), store) == finished.result
    assert (store.open(finished.result.object) / "answer.txt").read_text() == "42"
    assert "the answer is coming" in (store.job_directory(spec("answer").identity) / "log.txt").read_text()
    reused = run(compute, spec("answer"), store)
    assert isinstance(reused, Finished)
    assert reused.reused


def test_a_killed_job_is_run_again_at_once_on_its_machine(machines: Machines) -> None:
    store, job = machines.be("one"), spec("sleep")
    process = subprocess.Popen(
        [*COMMAND, write_spec(job, store)], env={**os.environ, "BAI_STORE": store.location}, stdout=subprocess.DEVNULL
    )
    pid = store.root / "jobs" / job.identity / "work" / "pid"
    deadline = time.monotonic() + 60
    while not pid.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lease = f"jobs/{job.identity}/lease.json"
    assert lease in files_of(store)
    pid.unlink()
    again = subprocess.Popen(
        [*COMMAND, write_spec(job, store)], env={**os.environ, "BAI_STORE": store.location}, stdout=subprocess.DEVNULL
    )
    while not pid.exists():
        assert again.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.kill()
    again.wait()


def test_storage_that_does_not_answer_is_no_refusal(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    store, job = machines.be("one"), spec("answer")
    uri = write_spec(job, store)

    def get(*_: object) -> None:
        raise GenericError("503 Slow Down")

    monkeypatch.setattr(obstore, "get", get)
    monkeypatch.setenv("BAI_STORE", store.location)
    assert main([uri]) == EXIT_CRASHED
    with pytest.raises(StoreUnavailable, match=f"{store.location}/jobs/.*result.json cannot be read: 503 Slow Down"):
        read_result(job, store)
