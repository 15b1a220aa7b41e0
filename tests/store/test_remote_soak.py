"""Object storage at length: the smoke study with every stage on another machine, and kills at random moments."""

import logging
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey
from tests.graph.chain import materialize, plan_of, tables
from tests.graph.conftest import smoke
from tests.store.object_storage import Machines, files_of
from tests.store.saver import FILES

__all__ = ["smoke"]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 10
LOGGER = logging.getLogger("soak")


def test_every_stage_of_a_study_on_another_machine_gives_the_same(
    smoke: Plan, machines: Machines, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, machines.be("planner"))
    for number, asset in enumerate(plan.assets):
        there = Plan(plan.study, machines.be(f"machine-{number}"))
        materialize(there, [*there.beside(asset), *there.keys(asset)])
        if asset == "ppo_run":
            ranged = {path.name for path in (there.store.root / "ranged").glob("*/*")}
            whole = {path.name for path in (there.store.root / "objects").glob("*/*")}
            assert len(ranged) == 3, "the actor's base and SFT models were not merged from ranges"
            assert not ranged & whole
    last = Plan(plan.study, machines.be("last"))
    assert {state.state for state in last.status().values()} == {"fresh"}
    fetched = sum(path.stat().st_size for path in last.store.root.rglob("*") if path.is_file())
    kept = sum(entry.size for entry in machines.be("last").bucket.list(""))
    print(f"a status fetched {fetched} of {kept} bytes")
    assert fetched < kept / 20
    for asset in ("base_model", "merged_sft", "reward_model"):
        key = RefKey("smoke", asset)
        ours, theirs = last.store.read_ref(key), smoke.store.read_ref(key)
        assert ours is not None
        assert theirs is not None
        assert ours.digest == theirs.digest
    for key in last.keys("ppo_run"):
        assert tables(last, key) == tables(smoke, key)


def test_uploads_that_are_killed_at_random_moments_leave_whole_objects_or_none(machines: Machines) -> None:
    store = machines.be("one")
    absent = 0
    for number in range(KILLS):
        files = 60 + number  # another object each time
        process = subprocess.Popen([sys.executable, "-m", "tests.store.uploader", store.location, str(files)])
        before = len(files_of(store))
        while len(files_of(store)) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        process.wait()
        reader = machines.be(f"reader-{number}")
        for uri in reader.objects():
            reader.verify(uri)
            assert len(list(reader.open(uri).iterdir())) - 1 >= 60
        absent += len(reader.objects()) == 0 or len(files_of(store, "objects")) > sum(
            len(list(reader.path(uri).iterdir())) for uri in reader.objects()
        )
    whole = store.objects()
    print(f"{absent} of {KILLS} kills cut an upload; {len(whole)} objects are whole")
    assert absent
    assert store.collect_garbage(older_than=-60) == whole
    assert files_of(store) == []


def test_states_that_are_killed_at_random_moments_are_whole(machines: Machines) -> None:
    last, moved = 0, 0
    for number in range(KILLS):
        store = machines.be(f"machine-{number % 2}")
        process = subprocess.Popen([sys.executable, "-m", "tests.store.saver", store.location, "job"])
        table, known = "jobs/job/work.json", store.bucket.get("jobs/job/work.json")
        deadline = time.monotonic() + 240
        while store.bucket.get(table) == known:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        process.wait()
        store.bucket.delete(["jobs/job/lease.json"])  # or the next machine would wait for the lease to run out
        with machines.be(f"reader-{number}").claim("job", LOGGER) as claim:
            numbers = {path.read_text()[:8] for path in (claim.directory / "work").iterdir()}
            assert len(list((claim.directory / "work").iterdir())) == FILES
        (found,) = numbers
        assert int(found) > last
        moved, last = moved + 1, int(found)
    print(f"{moved} kills, {last} states")
    with pytest.raises(StoreError, match="is not in the store"):
        store.open("store:objects/none/0")
