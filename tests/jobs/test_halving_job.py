"""Successive halving over runs on disk: what is decided, what it cost, and the full grid beside it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.dynamics.ladder import rungs
from bai_pipeline.dynamics_settings import DynamicsSettings, HalvingSettings
from bai_pipeline.errors import DataError
from bai_pipeline.jobs.halving import continuing, decisions
from bai_pipeline.jobs.runner import run_job
from bai_pipeline.jobspec import Execution, JobSpec
from bai_pipeline.store import Store
from tests.jobs.halving_runs import write_run

LEVELS = {"0.0": 0.2, "0.1": 0.6, "0.3": 0.5, "0.5": 0.9, "0.7": 0.4, "0.9": 0.3}
"""Of the score: 0.5 is best, then 0.1 and 0.3."""
DECIDED = {"0.0": 5, "0.1": 10, "0.3": 10, "0.5": 20, "0.7": 5, "0.9": 5}
"""How far each is trained: 6 alphas to step 5, 3 to step 10, 1 to step 20."""
RULES = HalvingSettings(first_step=5, factor=2, goal="score", survivors=1)
DYNAMICS = DynamicsSettings(bucket_width=20)
LADDER = rungs(LEVELS, 20, RULES)


def sweep(
    root: Path, lengths: Mapping[str, int], *, seeds: int = 2, collapsing: str = "", stopped: bool = False
) -> dict[str, Path]:
    """Runs by "ALPHA/SEED"; those of the alpha `collapsing` collapse, and are `stopped` for it."""
    return {
        f"{alpha}/{seed}": write_run(
            root / alpha / str(seed),
            level,
            steps=lengths[alpha],
            seed=seed,
            collapses=alpha == collapsing,
            stopped=stopped and alpha == collapsing,
        )
        for alpha, level in LEVELS.items()
        for seed in range(seeds)
    }


def full(steps: int = 20) -> dict[str, int]:
    return dict.fromkeys(LEVELS, steps)


def record_of(runs: Mapping[str, Path], store: Store) -> tuple[Path, Mapping[str, float | int | str]]:
    """The job's object and its metadata."""
    seeds = sorted({int(name.split("/")[1]) for name in runs})
    spec = JobSpec(
        kind="halving",
        code_version="1",
        inputs=dict.fromkeys(runs, "digest"),
        settings={
            "alphas": list(LEVELS),
            "seeds": seeds,
            "until_step": 20,
            "halving": RULES.model_dump(mode="json"),
            "dynamics": DYNAMICS.model_dump(mode="json"),
        },
        execution=Execution(inputs={name: published(path, store) for name, path in runs.items()}),
    )
    result = run_job(spec, store, logging.getLogger("halving"))
    return store.open(result.object), result.metadata


def published(run: Path, store: Store) -> str:
    with store.staging() as out:
        for item in run.iterdir():
            item.rename(out / item.name)
        return store.publish("ppo", out)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_of_six_alphas_the_best_three_go_on_and_then_the_best(tmp_path: Path) -> None:
    first, second = decisions(sweep(tmp_path, DECIDED), LADDER, RULES, DYNAMICS)
    assert continuing(first) == ["0.1", "0.3", "0.5"]
    assert continuing(second) == ["0.5"]
    assert (set(first["until_step"]), set(second["until_step"])) == ({5}, {10})


def test_what_comes_after_a_rung_changes_no_decision(tmp_path: Path) -> None:
    """A job that finds runs of the full grid decides what it would have decided without them."""
    short, long = sweep(tmp_path / "short", DECIDED), sweep(tmp_path / "long", full())
    for one, other in zip(
        decisions(short, LADDER, RULES, DYNAMICS), decisions(long, LADDER, RULES, DYNAMICS), strict=True
    ):
        pd.testing.assert_frame_equal(one, other)


def test_the_best_alpha_is_dropped_when_its_runs_collapse(tmp_path: Path) -> None:
    runs = sweep(tmp_path, {**DECIDED, "0.5": 5, "0.1": 20, "0.7": 10}, collapsing="0.5")
    first, second = decisions(runs, LADDER, RULES, DYNAMICS)
    assert continuing(first) == ["0.1", "0.3", "0.7"]
    assert continuing(second) == ["0.1"]
    assert first.set_index("alpha")["reason"]["0.5"] == "2 of its 2 runs collapsed."


def test_a_run_that_was_stopped_for_its_collapse_needs_no_more_steps(tmp_path: Path) -> None:
    runs = sweep(tmp_path, {**DECIDED, "0.5": 4, "0.1": 20, "0.7": 10}, collapsing="0.5", stopped=True)
    first, _ = decisions(runs, LADDER, RULES, DYNAMICS)
    assert continuing(first) == ["0.1", "0.3", "0.7"]


def test_a_run_that_is_shorter_than_its_rung_is_named(tmp_path: Path) -> None:
    runs = sweep(tmp_path, {**DECIDED, "0.3": 8})
    with pytest.raises(DataError, match=r"each trained for 10 steps .* alpha 0\.3, seed 1 ends after 8 steps"):
        decisions(runs, LADDER, RULES, DYNAMICS)


def test_the_record_says_what_was_decided_and_what_it_cost(tmp_path: Path, store: Store) -> None:
    record, metadata = record_of(sweep(tmp_path, DECIDED), store)
    assert metadata == {"steps_spent": 110, "steps_of_the_full_grid": 240, "share": pytest.approx(11 / 24)}
    log = pd.read_parquet(record / "decisions.parquet")
    assert list(log.groupby("until_step").size()) == [6, 3]
    advice = pd.read_parquet(record / "goals.parquet").set_index("goal")
    assert advice.loc["score", "alpha"] == "0.5"
    text = (record / "halving.md").read_text()
    assert text.startswith("Successive halving spent 110 of the full grid's 240 PPO steps (46%).")
    assert "full grid was trained" not in text
    assert not (record / "beside_the_full_grid.csv").exists()


def test_fewer_steps_are_spent_where_runs_collapse(tmp_path: Path, store: Store) -> None:
    """Of six alphas four collapse: two go on to step 10, one to step 20: 30 + 10 + 10 steps."""
    runs = {}
    for alpha, level in LEVELS.items():
        steps = {"0.0": 10, "0.1": 20}.get(alpha, 5)
        runs[f"{alpha}/0"] = write_run(tmp_path / alpha, level, steps=steps, collapses=steps == 5)
    _, metadata = record_of(runs, store)
    assert metadata["steps_spent"] == 50


def test_the_full_grid_is_beside_it_where_that_was_trained(tmp_path: Path, store: Store) -> None:
    record, metadata = record_of(sweep(tmp_path, full()), store)
    assert metadata["steps_spent"] == 110
    beside = pd.read_csv(record / "beside_the_full_grid.csv", dtype={"halving": str, "full": str}).set_index("goal")
    assert (beside.loc["score", "halving"], beside.loc["score", "full"]) == ("0.5", "0.5")
    assert beside.loc["score", "agreement"] == "same"
    low, value, high = beside.loc[["score"], ["full_low", "full_value", "full_high"]].to_numpy()[0]
    assert low < value < high
    line = "| score | score | alpha 0.5: 0.705 (0.641 to 0.768) | alpha 0.5: 0.705 (0.641 to 0.768) | same |"
    assert line in (record / "halving.md").read_text()


def test_a_grid_with_a_stopped_run_is_complete(tmp_path: Path, store: Store) -> None:
    runs = sweep(tmp_path, {**full(), "0.7": 4}, collapsing="0.7", stopped=True)
    assert json.loads((runs["0.7/0"] / "run.json").read_text())["stopped"] is not None
    record, _ = record_of(runs, store)
    assert (record / "beside_the_full_grid.csv").exists()
