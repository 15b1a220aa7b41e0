"""Successive halving beside the full grid, on the study micro: a quarter of an hour on one core."""

from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.plan import Plan
from bai_pipeline.store import Store
from bai_pipeline.study import load_study
from tests.graph.chain import materialize, object_of
from tests.graph.dagster_runs import failures, successive_halving

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

STUDY = "extends: micro\nname: micro-halving\nseeds: [0, 1]\n"


def test_halving_spends_at_most_half_of_the_full_grid_and_both_advices_are_beside_each_other(tmp_path: Path) -> None:
    study = tmp_path / "micro-halving.yaml"
    study.write_text(STUDY)
    plan = Plan(load_study(study), Store(tmp_path / "store"))
    upstream = plan.assets[: plan.assets.index("bai_actor")]
    materialize(plan, [key for asset in upstream for key in plan.keys(asset)])

    result, launched = successive_halving(study, plan.store)
    assert result.success, failures(result)
    trained = [len(steps_of(plan, part, seed)) for part in plan.study.alphas for seed in plan.study.seeds]
    grid = len(trained) * plan.study.until_step
    assert max(trained) == plan.study.until_step
    assert 2 * sum(trained) <= grid
    spent = object_of(plan, "successive_halving") / "halving.md"
    assert f"spent {sum(trained)} of the full grid's {grid} PPO steps" in spent.read_text()
    survivors = [alpha for alpha in plan.study.alphas if len(steps_of(plan, alpha, 0)) == plan.study.until_step]
    ends = {alpha: steps_of(plan, alpha, 0) for alpha in survivors}

    materialize(plan, plan.keys("ppo_run"))
    for alpha, steps in ends.items():
        pd.testing.assert_frame_equal(steps_of(plan, alpha, 0), steps)
    result, launched = successive_halving(study, plan.store)
    assert result.success, failures(result)
    assert [spec.kind for spec in launched] == ["halving"]
    record = object_of(plan, "successive_halving")
    print((record / "halving.md").read_text())
    beside = pd.read_csv(record / "beside_the_full_grid.csv", dtype={"halving": str, "full": str}).set_index("goal")
    assert {"stability", "growth", "score", "accuracy"} <= set(beside.index)
    score = beside.loc["score"]
    assert score["halving"] in survivors
    for side in ("halving", "full"):
        assert score[f"{side}_low"] < score[f"{side}_value"] < score[f"{side}_high"]
    assert score["agreement"] in ("same", "tied", "different")


def steps_of(plan: Plan, alpha: str, seed: int) -> pd.DataFrame:
    return pd.read_parquet(object_of(plan, "ppo_run", alpha, seed) / "steps")
