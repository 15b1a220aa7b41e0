"""What the checks accept and refuse: good artefacts, and the same with one fault each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from assets import checks, frames
from assets.expectations import Expected, expect
from assets.graph import Graph
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.tasks import Problem, is_held_out, prompt_text

Table = list[dict[str, Any]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(load_study("smoke"), Store(tmp_path / "store"))


def publish(plan: Plan, asset: str, files: dict[str, Table], part: str | None = None, seed: int | None = None) -> None:
    """Make an object the asset's, with JSON, JSON Lines and Parquet files as their names say."""
    with plan.store.staging() as out:
        for name, rows in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                pd.DataFrame(rows).to_parquet(path)
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            else:
                path.write_text(json.dumps(rows))
        uri = plan.store.publish(asset, out)
    ref = Ref(uri, plan.store.digest(uri), "job", {})
    plan.store.write_ref(RefKey(plan.study.name, asset, part, seed), ref)


def failed(frame: pd.DataFrame, expected: list[Expected]) -> set[str]:
    """The columns of the expectations that a frame breaks."""
    result = expect(frame, expected)
    rows = [record.data for record in result.metadata["expectations"].records]  # type: ignore[attr-defined]
    broken = {str(row["column"] or row["expectation"]) for row in rows if not row["passed"]}
    assert result.passed == (not broken)
    return broken


# -- merge weights -----------------------------------------------------------------------------------------------------


def weights(**changes: Any) -> Table:
    """Rows of merge_weights of the smoke study; `changes` replace fields of the last."""
    sft = {"instruct": 0.5, "reasoning": 0.5}
    merges: list[tuple[str, float | None, dict[str, float]]] = [
        ("merged_sft", None, {"instruct_sft": 0.5, "reasoning_sft": 0.5}),
        ("0.0", 0.0, {"base_model": 0.0, "instruct_sft": 0.5, "reasoning_sft": 0.5}),
        ("0.5", 0.5, {"base_model": 0.5, "instruct_sft": 0.25, "reasoning_sft": 0.25}),
    ]
    rows: Table = [
        {"merge": merge, "alpha": alpha, "beta": None if alpha is None else 1.0 - alpha, "weights": of_models}
        for merge, alpha, of_models in merges
    ]
    rows = [{**row, "sft_weights": sft, "weight_sum": 1.0} for row in rows]
    rows[-1] |= changes
    return rows


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"weight_sum": 1.0 + 5e-10}, set()),
        ({"weight_sum": 1.0 + 2e-9}, {"weight_sum"}),
        ({"weight_sum": None}, {"weight_sum"}),
        ({"weights": {"base_model": 0.5, "instruct_sft": 0.35, "reasoning_sft": 0.25}}, {"sum_of_weights"}),
        ({"weights": {"base_model": 1.2, "instruct_sft": -0.1, "reasoning_sft": -0.1}}, {"smallest_weight"}),
        ({"sft_weights": {"instruct": 0.5, "reasoning": 0.6}}, {"sum_of_sft_weights"}),
        ({"alpha": 1.5, "beta": -0.5}, {"alpha"}),
        ({"beta": 0.4}, {"alpha_plus_beta"}),
        ({"merge": "0.0"}, {"merge"}),
    ],
)
def test_merge_weights(plan: Plan, changes: dict[str, Any], broken: set[str]) -> None:
    publish(plan, "merge_weights", {"merge_weights.json": weights(**changes)})
    frame = frames.merge_weights(plan, "merge_weights", None)
    assert failed(frame, checks.expected_weights(Graph(plan.study))) == broken


# -- data tables -------------------------------------------------------------------------------------------------------


def problem(plan: Plan, *, held_out: bool) -> str:
    found = (Problem("sum", (a, b)) for a in range(10) for b in range(10))
    return prompt_text(next(p for p in found if is_held_out(p, plan.study.world) == held_out))


def prompt(identifier: str, text: str) -> dict[str, Any]:
    return {"id": identifier, "messages": [{"role": "user", "content": text}]}


def test_good_rows_pass_and_are_seen_to_state_problems(plan: Plan) -> None:
    publish(plan, "prompts", {"prompts.parquet": [prompt("a", problem(plan, held_out=False)), prompt("b", "hello")]})
    frame = frames.texts(plan, "prompts", None)
    assert failed(frame, checks.SOUND_TRAINING_ROWS) == set()
    assert list(frame["problems"]) == [1, 0]


def test_an_empty_text_and_a_repeated_id_are_found(plan: Plan) -> None:
    publish(plan, "prompts", {"prompts.parquet": [prompt("a", "hello"), prompt("a", "  ")]})
    broken = failed(frames.texts(plan, "prompts", None), checks.SOUND_TRAINING_ROWS)
    assert broken == {"['table', 'id']", "shortest_text"}


def test_a_held_out_problem_in_training_data_is_found_wherever_it_stands(plan: Plan) -> None:
    leak, fine = problem(plan, held_out=True), problem(plan, held_out=False)
    documents = [f"{fine} : ans 1", f"{leak} : b 4 + 7 = 1 , ans 1", f"<user> {leak} <asst> ans 1"]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(documents)]
    publish(plan, "pretraining_data", {"pretraining.parquet": rows})
    frame = frames.texts(plan, "pretraining_data", None)
    assert failed(frame, checks.SOUND_TRAINING_ROWS) == {"held_out_problems"}
    assert list(frame["held_out_problems"]) == [0, 1, 1]


def test_rows_of_different_tables_may_share_an_id(plan: Plan) -> None:
    row = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    publish(plan, "sft_data", {f"{role}/{role}.parquet": [row, row] for role in ("instruct", "reasoning")})
    assert failed(frames.texts(plan, "sft_data", None), checks.SOUND_TRAINING_ROWS) == set()


# -- metrics of runs ---------------------------------------------------------------------------------------------------


def run_rows(**changes: Any) -> Table:
    row = {"seed": 0, "length_mean": 20.0, "length_min": 3, "length_max": 40, "truncated_share": 0.1}
    row |= {"kl_train_sample": 1e-4, "kl_mismatch": -1e-12, "clip_fraction": 0.0, "score_mean": 0.5}
    row |= {"accuracy": 0.5, "kl_ref": 0.1, "explained_variance": 0.2}
    rows = [{**row, "step": step} for step in range(2)]
    rows[-1] |= changes
    return rows


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"step": 0}, {"['seed', 'step']", "step_increase"}),
        ({"step": 2}, {"step_increase"}),
        ({"score_mean": float("nan")}, {"non_finite"}),
        ({"score_mean": float("inf")}, {"non_finite"}),
        *(({name: float("nan")}, set()) for name in sorted(frames.MAY_BE_NULL)),
        *(({name: -float("inf")}, {"non_finite"}) for name in sorted(frames.MAY_BE_NULL)),
        ({"kl_train_sample": -1e-3}, {"kl_train_sample"}),
        ({"length_max": 4096}, {"length_max"}),
        ({"length_mean": 41.0}, {"length_ordered"}),
        ({"truncated_share": 1.5}, {"truncated_share"}),
    ],
)
def test_metrics_of_a_run(plan: Plan, changes: dict[str, Any], broken: set[str]) -> None:
    publish(plan, "ppo_run", {"steps/part-000000.parquet": run_rows(**changes)}, "0.5", 0)
    assert failed(frames.steps(plan, "ppo_run", "0.5"), checks.expected_metrics(Graph(plan.study))) == broken


# -- scores ------------------------------------------------------------------------------------------------------------


def scores(**changes: Any) -> Table:
    row = {"score": 0.5, "stderr": 0.1, "n": 20, "reason": None}
    rows = [{"benchmark": name, **row} for name in ("held_out_sum", "held_out_max")]
    rows[-1] |= changes
    return rows


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (scores, set()),
        (lambda: scores(score=50.0), {"score"}),
        (lambda: scores(n=0), {"explained"}),
        (lambda: scores(n=0, score=None, stderr=None, reason="no judge"), set()),
        (lambda: scores(score=None, stderr=None), {"explained"}),
        (lambda: scores(reason="no judge"), {"explained"}),
        (lambda: scores()[:1], {"explained"}),
    ],
)
def test_scores_are_complete_for_what_was_asked(plan: Plan, make: Callable[[], Table], broken: set[str]) -> None:
    publish(plan, "benchmark_scores", {"scores.parquet": make()}, "0.5", 0)
    frame = frames.scores(plan, "benchmark_scores", "0.5")
    assert len(frame) == 2
    assert failed(frame, checks.COMPLETE_SCORES) == broken
