"""`dagster dev` as a person uses it: a backfill over nine ratios, and a run that is cancelled."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from benchmarks.production.deployment import BACKFILL, BACKFILL_STATUS
from tests.graph.chain import plan_of
from tests.graph.dagster_server import LAUNCH, ROOT, RUN_STATUS, TERMINATE, Server, wait

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

RATIOS = [f"0.{tenth}" for tenth in range(1, 10)]
LONG = "pretraining: {steps: 50000}\n"
"""Makes base_model a job of many minutes; what is downstream of the one that is there can still be run."""


@pytest.fixture
def server(smoke: Plan, copied: Store, tmp_path: Path) -> Iterator[Server]:
    plan_of(tmp_path, copied, LONG)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "deploy" / "dagster.yaml").read_text())
    study = str(tmp_path / "smoke.yaml")
    environment = {**os.environ, "DAGSTER_HOME": str(home), "BAI_STUDY": study, "BAI_STORE": str(copied.root)}
    server = Server(environment, tmp_path / "dev.log")
    try:
        wait(server.is_up, 180)
        yield server
    finally:
        server.stop()


def test_a_backfill_over_nine_ratios_succeeds(server: Server, copied: Store) -> None:
    assets = [{"path": [name]} for name in ("bai_actor", "ppo_run")]
    identifier = server.ask(BACKFILL, assets=assets, partitions=RATIOS)["backfillId"]
    states: list[str] = []

    def is_over() -> bool:
        states.append(server.ask(BACKFILL_STATUS, id=identifier)["status"])
        return states[-1].startswith("COMPLETED") or states[-1] in ("FAILED", "CANCELED")

    wait(is_over, 1500)
    assert states[-1] == "COMPLETED_SUCCESS"
    for ratio in RATIOS:
        assert copied.read_ref(RefKey("smoke", "bai_actor", ratio)) is not None
        assert copied.read_ref(RefKey("smoke", "ppo_run", ratio, 0)) is not None


def test_terminating_a_run_ends_its_job(server: Server) -> None:
    run = server.ask(LAUNCH, asset="base_model")["run"]["runId"]
    wait(lambda: job_processes(server), 180)
    server.ask(TERMINATE, id=run)
    wait(lambda: server.ask(RUN_STATUS, id=run)["status"] == "CANCELED", 60)
    wait(lambda: not job_processes(server), 10)
    time.sleep(15)  # longer than the delay of a retry
    assert job_processes(server) == []
    assert server.ask(RUN_STATUS, id=run)["status"] == "CANCELED"


def job_processes(server: Server) -> list[int]:
    """Jobs that any process of the server started: they work on its store."""
    store = f"BAI_STORE={environment_of(server.process.pid)['BAI_STORE']}"
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().split(b"\0")
            variables = (directory / "environ").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if b"bai_pipeline.jobs" in command and store in variables:
            found.append(int(directory.name))
    return found


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)
