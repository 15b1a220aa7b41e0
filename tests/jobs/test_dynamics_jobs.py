"""Jobs that read metrics tables: every run is diagnosed under its own name, and the advice survives its file."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.diagnosis import DETECTORS
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.jobs.context import JobResult
from bai_pipeline.jobs.dynamics import VERDICT_COLUMNS, group_of, runs_of, table_of_runs, verdicts_of
from bai_pipeline.jobs.runner import run_job
from bai_pipeline.jobspec import Execution, JobSpec, Json
from bai_pipeline.report.words import recommendation_sentences
from bai_pipeline.store import Store

LOGGER = logging.getLogger("test")
STEPS, BATCH = 24, 64
LEVEL, FALLING = np.full(STEPS, 60.0), np.r_[[60.0] * 4, [15.0] * (STEPS - 4)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run_object(store: Store, lengths: np.ndarray, seed: int) -> str:
    """A PPO run of these mean lengths, with the tables that every run has."""
    rng = np.random.default_rng(seed)
    step = np.repeat(np.arange(STEPS), BATCH)
    length = np.maximum(1, lengths[step] * rng.lognormal(-0.02, 0.2, len(step))).astype(int)
    responses = pd.DataFrame({"step": step, "seed": seed, "length": length, "score": rng.normal(size=len(step))})
    means = responses.groupby("step")[["length", "score"]].mean()
    steps = pd.DataFrame({"seed": seed, "step": range(STEPS)})
    steps = steps.assign(length_mean=means["length"].tolist(), score_mean=means["score"].tolist(), score_std=1.0)
    prefixes = pd.DataFrame({"seed": seed, "step": range(STEPS), "prefix": 0, "tokens": 100, "value_error": 0.0})
    return write(store, "ppo", steps=steps, responses=responses, prefixes=prefixes)


def write(store: Store, kind: str, **tables: pd.DataFrame) -> str:
    """Publish an object with a directory of Parquet parts for each table."""
    with store.staging() as out:
        for name, table in tables.items():
            (out / name).mkdir()
            table.to_parquet(out / name / "part-0.parquet", index=False)
        return store.publish(kind, out)


def run(store: Store, kind: str, objects: Mapping[str, str], **settings: Any) -> tuple[JobResult, Path]:
    digests = {name: store.digest(uri) for name, uri in objects.items()}
    values: Json = {"dynamics": DynamicsSettings(bucket_width=20).model_dump(mode="json"), **settings}
    result = run_job(JobSpec(kind, "1", digests, values, execution=Execution(inputs=objects)), store, LOGGER)
    return result, store.open(result.object)


def test_every_run_has_every_detectors_verdict_under_its_own_init_and_seed(store: Store) -> None:
    runs = {
        "paradigm_3_run/0": run_object(store, FALLING, 0),
        "0.5/0": run_object(store, LEVEL, 0),
        "0.5/1": run_object(store, LEVEL, 1),
    }
    result, out = run(store, "diagnose", runs)
    verdicts = pd.read_parquet(out / "verdicts.parquet")
    assert tuple(verdicts.columns) == VERDICT_COLUMNS
    found = verdicts.pivot(index=["init", "seed"], columns="detector", values="verdict")
    assert found.index.tolist() == [("alpha 0.5", 0), ("alpha 0.5", 1), ("paradigm_3", 0)]
    assert set(found.columns) == set(DETECTORS)
    assert found["length_collapse"].tolist() == ["healthy", "healthy", "collapsed"]
    written = json.loads((out / "verdicts.json").read_text())
    assert written["paradigm_3/0"]["length_collapse"]["verdict"] == "collapsed"
    assert (out / "verdicts.md").read_text().count("\n\n- **length_collapse**") == 3
    assert result.metadata["runs"] == 3


def test_a_finding_fails_the_check_as_a_warning_that_names_the_run(store: Store) -> None:
    result, _ = run(store, "diagnose", {"paradigm_3_run/2": run_object(store, FALLING, 2)})
    (check,) = result.checks
    assert (check.name, check.passed, check.severity) == ("dynamics_are_stable", False, "warn")
    assert "paradigm_3 seed 2: length_collapse collapsed" in str(check.metadata["findings"]).split("; ")
    assert result.metadata["findings"] == len(str(check.metadata["findings"]).split("; "))


def test_neither_order_nor_ignorance_is_a_finding(store: Store) -> None:
    result, out = run(store, "diagnose", {"0.5/0": run_object(store, LEVEL, 0)})
    said = set(pd.read_parquet(out / "verdicts.parquet")["verdict"])
    assert {"healthy", "undetermined"} <= said
    (check,) = result.checks
    assert (check.passed, check.metadata["findings"]) == (True, "none")


def test_the_advice_names_an_alpha_for_a_goal_and_none_where_nothing_can_be_compared(store: Store) -> None:
    runs = {f"0.5/{seed}": run_object(store, LEVEL, seed) for seed in (0, 1)}
    _, diagnosed = run(store, "diagnose", runs)
    inputs = {f"runs/{name}": uri for name, uri in runs.items()} | {"dynamics/0.5": uri_of(store, diagnosed)}
    result, out = run(store, "recommendation", inputs, alphas=["0.1", "0.5"])
    goals = pd.read_parquet(out / "goals.parquet").set_index("goal")
    assert goals["alpha"].dropna().to_dict()["score"] == "0.5"
    assert "accuracy" in goals.index[goals["alpha"].isna()]
    assert result.metadata["best for score"] == "0.5"
    assert "best for accuracy" not in result.metadata
    assert "alpha 0.1 (no runs)" in (out / "recommendation.md").read_text()


def test_a_goal_without_an_alpha_is_still_none_after_its_file_was_read(store: Store) -> None:
    runs = {"0.5/0": run_object(store, LEVEL, 0)}
    _, diagnosed = run(store, "diagnose", runs)
    inputs = {"runs/0.5/0": runs["0.5/0"], "dynamics/0.5": uri_of(store, diagnosed)}
    _, out = run(store, "recommendation", inputs, alphas=["0.5"])
    items, _ = recommendation_sentences(pd.read_parquet(out / "goals.parquet"), pd.DataFrame())
    (accuracy,) = (sentence for sentence in items.items if "accuracy" in sentence)  # type: ignore[union-attr]
    assert accuracy.startswith("**Best for accuracy:** none can be named. No alpha can be compared")


def test_names_of_inputs_say_which_run_they_are() -> None:
    inputs = {
        "runs/0.5/1": Path("a"),
        "runs/paradigm_1_run/0": Path("b"),
        "dynamics/0.5": Path("c"),
        "runs_of_others/0.5/0": Path("d"),
    }
    runs = group_of(inputs, "runs")
    assert runs == {"0.5/1": Path("a"), "paradigm_1_run/0": Path("b")}
    assert list(runs_of(runs)) == [("alpha 0.5", 1, Path("a")), ("paradigm_1", 0, Path("b"))]


def test_no_runs_are_tables_without_rows_that_name_no_run() -> None:
    assert table_of_runs({}, "steps").columns.tolist() == ["init", "seed", "step"]
    assert tuple(verdicts_of({}).columns) == VERDICT_COLUMNS


def uri_of(store: Store, path: Path) -> str:
    return f"store:{path.relative_to(store.root).as_posix()}"
