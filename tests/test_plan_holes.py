"""Scores of a run that its own dynamics ended: there will be none, and everything that is made of them says so."""

from pathlib import Path

import pytest

from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from tests.placeholders import REASON, Stopped, materialize, study_of

STOPPING = "on_collapse: stop\nevaluate_at_step: 6\nuntil_step: 8\n"
HOLE = f"stopped after step 4: {REASON}"
RUNS = {seed: RefKey("test", "ppo_run", "0.1", seed) for seed in (0, 1)}
SCORES = {seed: RefKey("test", "benchmark_scores", "0.1", seed) for seed in (0, 1)}


def stopped_plan(tmp_path: Path, stopped: Stopped, text: str = STOPPING) -> Plan:
    tmp_path.mkdir(exist_ok=True)
    plan = Plan(study_of(tmp_path, text), Store(tmp_path / "store"))
    materialize(plan, stopped=stopped)
    return plan


def holes(plan: Plan) -> dict[RefKey, str]:
    return {key: status.reason for key, status in plan.status().items() if status.state == "hole"}


def table_holes(plan: Plan, table: str) -> dict[str, str]:
    found: dict[str, str] = plan.spec(RefKey("test", table)).settings["holes"]
    return found


def test_the_scores_of_a_stopped_run_are_a_hole_and_all_else_is_fresh(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RUNS[0]: 4})
    assert holes(plan) == {SCORES[0]: HOLE}
    assert {status.state for key, status in plan.status().items() if key != SCORES[0]} == {"fresh"}


def test_a_run_that_was_stopped_after_the_step_that_is_evaluated_has_scores(tmp_path: Path) -> None:
    for step, hole in ((5, True), (6, False), (7, False)):
        plan = stopped_plan(tmp_path / str(step), {RUNS[0]: step})
        assert (SCORES[0] in holes(plan)) is hole
        assert (plan.store.read_ref(SCORES[0]) is None) is hole


def test_only_scores_are_holes_not_the_run_nor_its_diagnosis(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RUNS[0]: 4})
    for key in (RUNS[0], RefKey("test", "training_dynamics", "0.1"), RefKey("test", "ratio_table")):
        assert plan.hole(key) is None
    assert plan.hole(RefKey("test", "paradigm_scores", "base_model")) is None


def test_a_stopped_baseline_is_a_hole_of_the_paradigms_scores(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RefKey("test", "paradigm_3_run", None, seed): 4 for seed in (0, 1)})
    assert holes(plan) == {RefKey("test", "paradigm_scores", "paradigm_3", seed): HOLE for seed in (0, 1)}
    assert table_holes(plan, "paradigm_table") == {"paradigm_3": HOLE}
    assert table_holes(plan, "ratio_table") == {}


def test_a_row_of_a_table_is_a_hole_only_if_no_seed_can_be_scored(tmp_path: Path) -> None:
    one = stopped_plan(tmp_path / "one", {RUNS[0]: 4})
    assert table_holes(one, "ratio_table") == {}
    assert set(one.spec(RefKey("test", "ratio_table")).inputs) == {"0.1/1", "0.5/0", "0.5/1"}
    both = stopped_plan(tmp_path / "both", {RUNS[0]: 4, RUNS[1]: 3})
    assert table_holes(both, "ratio_table") == {"0.1": HOLE}
    assert set(both.spec(RefKey("test", "ratio_table")).inputs) == {"0.5/0", "0.5/1"}


def test_the_headline_ratio_is_a_hole_of_the_paradigm_table(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RefKey("test", "ppo_run", "0.5", seed): 4 for seed in (0, 1)})
    assert table_holes(plan, "paradigm_table") == {"0.5": HOLE}


def test_the_job_of_such_scores_cannot_be_asked_for(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RUNS[0]: 4})
    with pytest.raises(StoreError, match=r"kept no policy of step 6 \(it has 4\); it was stopped after step 4"):
        plan.spec(SCORES[0])


def test_scores_that_were_made_before_the_run_was_stopped_are_in_no_table(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {})
    assert plan.store.read_ref(SCORES[0]) is not None
    materialize(plan, [RUNS[0]], stopped={RUNS[0]: 4})
    assert holes(plan) == {SCORES[0]: HOLE}
    assert "0.1/0" not in plan.spec(RefKey("test", "ratio_table")).inputs


def test_a_stopped_run_is_as_far_as_it_gets_until_the_rule_that_stopped_it_changes(tmp_path: Path) -> None:
    stopped_plan(tmp_path, {RUNS[0]: 4})
    for text, state in (
        (STOPPING, "fresh"),
        (STOPPING + "dynamics: {collapse_depth: 0.5}\n", "stale"),
        (STOPPING.replace("stop\n", "observe\n"), "stale"),
        (STOPPING.replace("until_step: 8", "until_step: 12"), "fresh"),
    ):
        plan = Plan(study_of(tmp_path, text), Store(tmp_path / "store"))
        status = plan.status()[RUNS[0]]
        assert (status.state, "trained less far" in status.reason) == (state, state == "stale")


def test_a_run_that_went_on_has_scores_again(tmp_path: Path) -> None:
    stopped_plan(tmp_path, {RUNS[0]: 4})
    plan = Plan(study_of(tmp_path, STOPPING.replace("stop\n", "observe\n")), Store(tmp_path / "store"))
    materialize(plan, [RUNS[0]])
    assert holes(plan) == {}
    assert plan.status()[SCORES[0]].state == "absent"


def test_a_damaged_run_is_stale_and_says_nothing_of_its_scores(tmp_path: Path) -> None:
    plan = stopped_plan(tmp_path, {RUNS[0]: 4})
    ref = plan.store.read_ref(RUNS[0])
    assert ref is not None
    (plan.store.path(ref.object) / "run.json").write_text("{}  ")
    assert plan.hole(SCORES[0]) is None
    states = plan.status()
    assert (states[RUNS[0]].state, states[SCORES[0]].state) == ("stale", "absent")
