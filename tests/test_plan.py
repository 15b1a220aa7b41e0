"""The plan: which job makes each asset, and what a change makes stale. Jobs are replaced by small placeholders here."""

import json
from pathlib import Path

import pytest

from bai_pipeline.errors import RecipeError, StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, RefKey, Store
from bai_pipeline.study import load_study
from tests.placeholders import materialize, study_of


def not_fresh(plan: Plan) -> set[str]:
    return {key.asset + (f"[{key.part}]" if key.part else "") for key, s in plan.status().items() if s.state != "fresh"}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = Plan(study_of(tmp_path), Store(tmp_path / "store"))
    materialize(plan)
    return plan


def test_everything_is_absent_in_an_empty_store(tmp_path: Path) -> None:
    states = Plan(study_of(tmp_path), Store(tmp_path / "store")).status()
    assert {status.state for status in states.values()} == {"absent"}


def test_everything_is_fresh_after_it_was_materialized(plan: Plan) -> None:
    assert not_fresh(plan) == set()


def test_there_is_one_run_per_alpha_and_seed(plan: Plan) -> None:
    assert [(k.part, k.seed) for k in plan.keys("ppo_run")] == [("0.1", 0), ("0.1", 1), ("0.5", 0), ("0.5", 1)]
    assert len({plan.spec(k).identity for k in plan.keys("ppo_run")}) == 4


def test_a_changed_sft_weight_makes_exactly_the_merges_and_what_follows_stale(plan: Plan, tmp_path: Path) -> None:
    weights = "sft:\n  instruct: {train: instruct, weight: 0.4}\n  reasoning: {train: reasoning, weight: 0.6}\n"
    changed = Plan(study_of(tmp_path, weights), plan.store)
    assert not_fresh(changed) == {
        "merge_weights",
        "merged_sft",
        "bai_actor[0.1]",
        "bai_actor[0.5]",
        "ppo_run[0.1]",
        "ppo_run[0.5]",
        "training_dynamics[0.1]",
        "training_dynamics[0.5]",
        "benchmark_scores[0.1]",
        "benchmark_scores[0.5]",
        "ratio_table",
        "paradigm_table",
        "case_studies",
        "ratio_recommendation",
        "dynamics_figures",
        "report",
    }


def test_a_changed_ppo_setting_leaves_every_model_before_ppo_fresh(plan: Plan, tmp_path: Path) -> None:
    stale = not_fresh(Plan(study_of(tmp_path, "ppo: {lam: 1.0}\n"), plan.store))
    assert "ppo_run[0.1]" in stale
    assert "paradigm_1_run" in stale
    assert "paradigm_scores[paradigm_1]" in stale
    assert not stale & {"bai_actor[0.1]", "reward_model", "paradigm_scores[base_model]"}


def test_an_added_alpha_leaves_the_runs_of_the_others_fresh(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text("extends: study.yaml\nalphas: ['0.1', '0.3', '0.5']\n")
    stale = not_fresh(Plan(load_study(path), plan.store))
    assert {"bai_actor[0.3]", "ppo_run[0.3]", "benchmark_scores[0.3]", "ratio_table", "merge_weights"} <= stale
    assert not stale & {"bai_actor[0.1]", "ppo_run[0.1]", "benchmark_scores[0.5]"}


def test_extending_a_run_is_the_same_job_and_only_the_run_and_what_shows_it_become_stale(
    plan: Plan, tmp_path: Path
) -> None:
    (key, *_) = plan.keys("ppo_run")
    before = plan.spec(key)
    longer = Plan(study_of(tmp_path, f"until_step: {plan.study.until_step + 2}\n"), plan.store)
    assert longer.spec(key).identity == before.identity
    assert "ppo_run[0.1]" in not_fresh(longer)
    materialize(longer)
    assert not_fresh(longer) == set()
    assert not_fresh(plan) == set()


def test_the_scores_of_an_extended_run_stay_the_same_job(plan: Plan, tmp_path: Path) -> None:
    (key, *_) = plan.keys("benchmark_scores")
    before = plan.spec(key).identity
    longer = Plan(study_of(tmp_path, f"until_step: {plan.study.until_step + 2}\n"), plan.store)
    materialize(longer, longer.keys("ppo_run"))
    assert longer.spec(key).identity == before


def test_two_studies_in_one_store_do_not_disturb_each_other(plan: Plan, tmp_path: Path) -> None:
    other = Plan(study_of(tmp_path, "").model_copy(update={"name": "other"}), plan.store)
    assert {s.state for s in other.status().values()} == {"absent"}
    materialize(other)
    assert not_fresh(plan) == set()


def test_a_damaged_object_is_stale_and_so_is_what_follows(plan: Plan) -> None:
    ref = plan.store.read_ref(RefKey("test", "reward_model"))
    assert ref is not None
    (plan.store.path(ref.object) / "identity").write_text("altered")
    assert {"reward_model", "ppo_run[0.1]", "paradigm_3_run"} <= not_fresh(plan)


def test_upstream_that_was_never_materialized_is_named(tmp_path: Path) -> None:
    plan = Plan(study_of(tmp_path), Store(tmp_path / "store"))
    with pytest.raises(StoreError, match="merge_weights of study 'test' has not been materialized"):
        plan.spec(RefKey("test", "bai_actor", "0.5"))


def test_an_alpha_of_the_grid_that_the_study_does_not_list_can_be_asked_for(plan: Plan) -> None:
    assert plan.recipe("0.9").flat_weights()["base_model"] == pytest.approx(0.9)


def test_a_tampered_weight_is_refused_before_any_job_starts(plan: Plan) -> None:
    rows = [{"merge": "merged_sft", "sft_weights": {"instruct": 0.5, "reasoning": 0.6}}]
    with plan.store.staging() as out:
        (out / "merge_weights.json").write_text(json.dumps(rows))
        uri = plan.store.publish("merge_weights", out)
    plan.store.write_ref(RefKey("test", "merge_weights"), Ref(uri, "d", "j", {}))
    for alpha in (None, "0.5"):
        with pytest.raises(RecipeError, match=r"0\.5 \(instruct_sft\) \+ 0\.6 \(reasoning_sft\)"):
            plan.recipe(alpha)


def test_a_study_that_brings_its_models_has_no_job_that_trains_them(tmp_path: Path) -> None:
    for name in ("base", "a", "b", "reward"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    text = (
        "base: {path: base}\nsft: {a: {path: a, weight: 0.5}, b: {path: b, weight: 0.5}}\n"
        "paradigm_1: a\nparadigm_3: b\ntokenizer_from: b\nreward: {kind: model, path: reward}\n"
    )
    plan = Plan(study_of(tmp_path, text), Store(tmp_path / "store"))
    assert not {"pretraining_data", "sft_data", "preference_data"} & set(plan.assets)
    kinds = {plan.spec(RefKey("test", asset)).kind for asset in ("base_model", "a_sft", "b_sft", "reward_model")}
    assert kinds == {"import_checkpoint"}


def test_a_brought_file_that_changed_makes_its_import_stale(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    plan = Plan(study_of(tmp_path, "base: {path: base}\n"), Store(tmp_path / "store"))
    before = plan.spec(RefKey("test", "base_model")).identity
    (tmp_path / "base" / "config.json").write_text("{ }")
    assert plan.spec(RefKey("test", "base_model")).identity != before
