"""A PPO job whose store is in object storage goes on where another machine left it."""

import logging
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bai_pipeline.jobs.runner import read_result, run_job
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from tests.ppo.test_ppo_jobs import make_spec, start, wait
from tests.store.object_storage import Machines, bucket, files_of, machines, s3_endpoint

__all__ = ["bucket", "machines", "make_spec", "s3_endpoint"]

LOGGER = logging.getLogger("bai_pipeline.test")


@pytest.fixture
def store(machines: Machines) -> Store:
    return machines.be("first")


def tables(store: Store, spec: JobSpec) -> dict[str, bytes]:
    result = read_result(spec, store)
    assert result is not None
    path = store.open(result.object)
    return {p.name: p.read_bytes() for table in ("steps", "responses") for p in sorted((path / table).iterdir())}


def test_a_run_goes_on_from_another_machine_as_if_undisturbed(
    make_spec: Callable[..., JobSpec],
    machines: Machines,
    store: Store,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    spec = make_spec(steps=4, every=1, ranks=1)
    half = replace(spec, execution=replace(spec.execution, until_step=2))
    local = Store(tmp_path / "local")
    for uri in spec.execution.inputs.values():
        shutil.copytree(store.open(uri), local.path(uri))
    run_job(spec, local, LOGGER)
    run_job(half, store, LOGGER)
    shutil.rmtree(store.root)
    caplog.clear()
    second = machines.be("second")
    run_job(spec, second, LOGGER)
    assert "continuing after step 2" in caplog.text
    assert tables(second, spec) == tables(local, spec)
    assert sum(name.endswith("lease.json") for name in files_of(second)) == 0
    assert run_job(spec, machines.be("third"), LOGGER) == read_result(spec, second)
    assert "is already done" in caplog.text


@pytest.mark.soak
def test_the_ranks_of_a_job_share_the_cache_of_their_machine(make_spec: Callable[..., JobSpec], store: Store) -> None:
    spec = make_spec(steps=2, ranks=2)
    code, output = wait(start(spec, store))
    assert code == 0, output
    assert read_result(spec, store) is not None


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_run_whose_machine_is_lost_goes_on_elsewhere_and_changes_no_byte(
    make_spec: Callable[..., JobSpec], machines: Machines, store: Store, tmp_path: Path
) -> None:
    """SIGKILL at a random moment after a checkpoint was saved; the next machine waits for the lease to run out."""
    spec = make_spec(steps=60, every=3, ranks=1)
    local = Store(tmp_path / "local")
    for uri in spec.execution.inputs.values():
        shutil.copytree(store.open(uri), local.path(uri))
    run_job(spec, local, LOGGER)
    for number in range(3):
        there = machines.be(f"machine-{number}")
        table = f"jobs/{spec.identity}/work.json"
        known, process = there.bucket.get(table), start(spec, there)
        while there.bucket.get(table) == known:
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(random.uniform(0, 1))
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    last = machines.be("last")
    code, output = wait(start(spec, last))
    assert code == 0, output
    assert "continuing after step" in output
    assert tables(last, spec) == tables(local, spec)
