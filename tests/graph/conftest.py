"""The smoke study, materialized once for all tests of the graph and all test processes."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from bai_pipeline.plan import Plan
from bai_pipeline.store import Store
from tests.graph.chain import materialize, plan_of


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Everything of the smoke study, for reading only. A job that is done is not run again, so whoever comes first
    makes it, and other test processes wait."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smoke"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = plan_of(directory, Store(directory / "store"))
        materialize(plan)
    return plan


@pytest.fixture
def copied(smoke: Plan, tmp_path: Path) -> Store:
    """A store with everything of the smoke study that a test may alter."""
    shutil.copytree(smoke.store.root, tmp_path / "store")
    return Store(tmp_path / "store")
