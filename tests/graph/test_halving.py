"""The job `successive_halving` as Dagster runs it, with real PPO on the smoke study."""

import shutil
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pandas as pd
import pytest

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import Plan
from bai_pipeline.plan.runs import RunRecord
from bai_pipeline.store import RefKey, Store
from tests.graph.chain import materialize, object_of, plan_of, tables
from tests.graph.dagster_runs import checks, failures, successive_halving

STUDY = """\
alphas: ['0.0', '0.3', '0.5', '0.7']
seeds: [7]
evaluate_at_step: 4
until_step: 4
halving: {first_step: 1, factor: 2, goal: score, survivors: 1}
"""
"""Of four alphas two go on after step 1 and one after step 2: 4 + 2 + 2 of 16 steps. No run of it is in the store."""


class Halved(NamedTuple):
    """A study after successive halving."""

    plan: Plan
    result: dg.ExecuteInProcessResult
    launched: list[JobSpec]

    @property
    def survivor(self) -> str:
        (alpha,) = (alpha for alpha, step in trained_to(self.plan).items() if step == 4)
        return alpha


def halve(directory: Path, store: Store) -> Halved:
    """Run the job on the study in `directory`."""
    plan = plan_of(directory, store, STUDY)
    return Halved(plan, *successive_halving(directory / "smoke.yaml", store))


def trained_to(plan: Plan) -> dict[str, int]:
    """The step that each alpha's run came to."""
    return {
        str(key.part): RunRecord.read(object_of(plan, "ppo_run", key.part, key.seed)).until_step
        for key in plan.keys("ppo_run")
    }


@pytest.fixture(scope="module")
def upstream(smoke: Plan, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The study with all that PPO starts from, and no run."""
    directory = tmp_path_factory.mktemp("upstream")
    shutil.copytree(smoke.store.root, directory / "store")
    plan = plan_of(directory, Store(directory / "store"), STUDY)
    materialize(plan, [RefKey("smoke", "merge_weights")])
    return plan


@pytest.fixture(scope="module")
def halved(upstream: Plan, tmp_path_factory: pytest.TempPathFactory) -> Halved:
    directory = tmp_path_factory.mktemp("halved")
    shutil.copytree(upstream.store.root, directory / "store")
    halved = halve(directory, Store(directory / "store"))
    assert halved.result.success, failures(halved.result)
    return halved


def test_half_of_the_grid_is_trained_and_the_record_says_so(halved: Halved) -> None:
    assert sorted(trained_to(halved.plan).values()) == [1, 1, 2, 4]
    record = object_of(halved.plan, "successive_halving")
    assert (record / "halving.md").read_text().startswith("Successive halving spent 8 of the full grid's 16 PPO steps")
    decided = pd.read_parquet(record / "decisions.parquet")
    went_on = decided[decided["decision"] == "continue"].groupby("until_step").size()
    assert went_on.to_dict() == {1: 2, 2: 1}
    assert list(decided.loc[decided["until_step"].eq(2) & decided["decision"].eq("continue"), "alpha"]) == [
        halved.survivor
    ]


def test_dagster_is_told_of_a_partition_what_its_materialization_would_tell(halved: Halved) -> None:
    events = [
        e.step_materialization_data.materialization for e in halved.result.all_events if e.is_step_materialization
    ]
    runs = [event for event in events if event.asset_key.path == ["ppo_run"]]
    told = sorted((str(event.partition), event.metadata["rung"].value) for event in runs)
    rungs = {1: (1,), 2: (1, 2), 4: (1, 2, 3)}
    assert told == sorted((alpha, rung) for alpha, step in trained_to(halved.plan).items() for rung in rungs[step])
    ref = halved.plan.store.read_ref(halved.plan.keys("ppo_run", halved.survivor)[0])
    assert ref is not None
    last = runs[-1]
    assert last.partition == halved.survivor
    assert last.tags is not None
    assert last.tags["dagster/data_version"] == ref.digest
    found = checks(halved.result)
    assert found["ppo_run:no_length_collapse"].partition == halved.survivor
    assert found["bai_actor:identical_manifests"].passed
    (record,) = (event for event in events if event.asset_key.path == ["successive_halving"])
    assert record.metadata["steps_spent"].value == 8


def test_the_survivor_is_the_run_that_the_full_grid_would_have_made(
    halved: Halved, upstream: Plan, tmp_path: Path
) -> None:
    shutil.copytree(upstream.store.root, tmp_path / "store")
    straight = plan_of(tmp_path, Store(tmp_path / "store"), STUDY)
    (run,) = straight.keys("ppo_run", halved.survivor)
    materialize(straight, [RefKey("smoke", "bai_actor", halved.survivor), run])
    assert tables(straight, run) == tables(halved.plan, run)


def test_after_the_full_grid_halving_trains_nothing_and_shows_both_sides(halved: Halved, tmp_path: Path) -> None:
    shutil.copytree(halved.plan.store.root, tmp_path / "store")
    plan = plan_of(tmp_path, Store(tmp_path / "store"), STUDY)
    materialize(plan, plan.keys("ppo_run"))
    assert set(trained_to(plan).values()) == {4}
    again = halve(tmp_path, plan.store)
    assert again.result.success, failures(again.result)
    assert [spec.kind for spec in again.launched] == ["halving"]
    before, after = (object_of(p, "successive_halving") for p in (halved.plan, plan))
    decided = pd.read_parquet(before / "decisions.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(after / "decisions.parquet"), decided)
    assert not (before / "beside_the_full_grid.csv").exists()
    beside = pd.read_csv(after / "beside_the_full_grid.csv", dtype={"halving": str}).set_index("goal")
    assert beside.loc["score", "halving"] == halved.survivor


def test_what_is_missing_upstream_is_named_at_once_with_the_command_that_makes_it(tmp_path: Path) -> None:
    nothing = halve(tmp_path, Store(tmp_path / "store"))
    ((step, message),) = failures(nothing.result).items()
    assert step == "all_alphas"
    names = "base_model, instruct_sft, reasoning_sft, merge_weights, prompts, reward_model"
    assert f"StoreError: {names} of study 'smoke' have not been materialized" in message
    assert "--select '*bai_actor,*prompts,*reward_model' --partition 0.0" in message
    assert nothing.launched == []
