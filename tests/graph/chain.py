"""Materializing a study without Dagster: the jobs of its plan, one after the other, in this process."""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bai_pipeline.jobs.context import JobResult
from bai_pipeline.jobs.runner import run_job, write_spec
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import load_study

LOGGER = logging.getLogger("chain")


def plan_of(directory: Path, store: Store, text: str = "", name: str = "smoke") -> Plan:
    """The plan of a study file, written to `directory`, that extends smoke by `text`."""
    path = directory / f"{name}.yaml"
    path.write_text(f"extends: smoke\nname: {name}\n{text}")
    return Plan(load_study(path), store)


def materialize(plan: Plan, keys: Iterable[RefKey] | None = None) -> dict[RefKey, JobResult]:
    """Run the job of each key (default: the whole study) and write its ref."""
    results = {}
    for key in plan.all_keys() if keys is None else keys:
        spec = plan.spec(key)
        result = results[key] = run_job(spec, plan.store, LOGGER)
        plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
    return results


def object_of(plan: Plan, asset: str, part: str | None = None, seed: int | None = None) -> Path:
    """The directory that a ref of the study names."""
    ref = plan.store.read_ref(RefKey(plan.study.name, asset, part, seed))
    assert ref is not None
    return plan.store.open(ref.object)


def tables(plan: Plan, run: RefKey) -> dict[str, bytes]:
    """The bytes of the `steps` and `responses` tables of a run."""
    directory = object_of(plan, run.asset, run.part, run.seed)
    parts = [*(directory / "steps").glob("*.parquet"), *(directory / "responses").glob("*.parquet")]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(parts)}


def job_process(store: Store, uri: str) -> subprocess.Popen[bytes]:
    """A job as its own process."""
    environment = {**os.environ, "BAI_STORE": str(store.root)}
    return subprocess.Popen(
        [sys.executable, "-m", "bai_pipeline.jobs", uri], env=environment, stdout=subprocess.DEVNULL
    )


def kill_after_first_checkpoint(store: Store, spec: JobSpec, latest: float = 0.2) -> None:
    """Start a job and SIGKILL it at a random moment, at most `latest` seconds after its first checkpoint."""
    directory = store.job_directory(spec.identity)
    process = job_process(store, write_spec(spec, store))
    deadline = time.monotonic() + 120
    while not any((directory / "work" / "state").glob("step-*")):
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)
    time.sleep(random.uniform(0, latest))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (directory / "result.json").exists(), "the job ended before it could be killed"
