"""Jobs that are forked from a process with torch imported have the results, failures and ends of others."""

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from bai_pipeline.errors import ComputeError
from bai_pipeline.jobs.runner import write_spec
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import RefKey, Store
from resources import Finished, LocalCompute, LocalSettings
from resources.job_server import JobServer
from tests.graph.chain import plan_of
from tests.resources.one_run import run


def specs(directory: Path, store: Store) -> list[JobSpec]:
    """Two jobs of a moment."""
    plan = plan_of(directory, store)
    return [plan.spec(RefKey("smoke", name)) for name in ("prompts", "sft_data")]


def environment(store: Store) -> dict[str, str]:
    return {**os.environ, "BAI_STORE": str(store.root), "BAI_DIE_WITH_PARENT": "1"}


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split(") ")[1][0] != "Z"


def test_forked_jobs_leave_what_others_leave_and_one_that_refuses_does_not_end_the_server(tmp_path: Path) -> None:
    compute = LocalCompute(LocalSettings(preload=True))
    forked, plain = Store(tmp_path / "forked"), Store(tmp_path / "plain")
    first, second = specs(tmp_path, forked)
    broken = replace(first, settings={**first.settings, "world": {**first.settings["world"], "prompts": -1}})
    outcomes = [run(compute, spec, forked) for spec in (first, broken, second)]
    refused = outcomes.pop(1)
    assert isinstance(refused, dg.Failure)
    assert "prompts" in str(refused.description)
    for spec, outcome in zip((first, second), outcomes, strict=True):
        expected = run(LocalCompute(LocalSettings()), spec, plain)
        assert isinstance(outcome, Finished)
        assert isinstance(expected, Finished)
        assert outcome.result == expected.result
        log = (forked.job_directory(spec.identity) / "log.txt").read_text()
        assert log == (plain.job_directory(spec.identity) / "log.txt").read_text()
    compute.close()


def test_a_forked_job_has_a_session_of_its_own_and_its_death_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    spec, _ = specs(tmp_path, store)
    server = JobServer(environment(store))
    with (store.job_directory(spec.identity) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the job waits for it
        job = server.start(write_spec(spec, store), environment(store))
        assert os.getsid(job.pid) == job.pid
        assert job.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(0.1)
        os.killpg(job.pid, signal.SIGKILL)
        assert job.wait() == job.poll() == -signal.SIGKILL
        job.stdout.close()
    server.close()
    with pytest.raises(ComputeError, match="the process that jobs are forked from has ended"):
        server.start("store:jobs/none", environment(store))


def test_server_and_job_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    spec, _ = specs(tmp_path, store)
    script = f"""
        import fcntl, os, time
        from resources.job_server import JobServer
        lock = open({str(store.job_directory(spec.identity) / "lock")!r}, "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = JobServer(os.environ)
        job = server.start({write_spec(spec, store)!r}, os.environ)
        print(server._process.pid, job.pid, flush=True)
        time.sleep(600)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**environment(store), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))
