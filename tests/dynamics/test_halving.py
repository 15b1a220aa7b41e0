"""The plan's budget for every size; decisions on curves whose answer is known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bai_pipeline.dynamics.halving import compare, decide
from bai_pipeline.dynamics.ladder import Cost, Rung, cost, rungs
from bai_pipeline.dynamics.recommendation import Recommendation, recommend
from bai_pipeline.dynamics_settings import DynamicsSettings, HalvingSettings
from bai_pipeline.errors import DataError, StudyError

GRID = ["0.0", "0.1", "0.3", "0.5", "0.7", "0.9"]
SETTINGS = HalvingSettings(first_step=5, factor=2, goal="score", survivors=1)
FIRST = Rung(until_step=5, alphas=6, survivors=3)


def sweep(
    levels: Mapping[str, float], seeds: Sequence[int] = (0,), steps: int = 20, collapsed: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and accuracies that rise from 0 to the level, curves that never cross, and their verdicts."""
    tables = []
    for alpha, level in levels.items():
        for seed in seeds:
            table = pd.DataFrame({"init": f"alpha {alpha}", "seed": seed, "step": range(steps)})
            table["score_mean"] = table["accuracy"] = level * (1 - np.exp(-table["step"] / 10))
            tables.append(table.assign(length_mean=50 * np.exp(level * table["step"] / 20)))
    runs = pd.concat(tables)
    verdicts = runs[["init", "seed"]].drop_duplicates().assign(detector="length_collapse", verdict="healthy")
    verdicts.loc[verdicts["init"].isin([f"alpha {a}" for a in collapsed]), "verdict"] = "collapsed"
    return runs, verdicts


def continuing(decisions: pd.DataFrame) -> list[str]:
    return decisions.loc[decisions["decision"] == "continue", "alpha"].tolist()


def reasons(decisions: pd.DataFrame) -> dict[str, str]:
    return dict(zip(decisions["alpha"], decisions["reason"], strict=True))


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_of_micro() -> None:
    plan = rungs(GRID, 20, SETTINGS)
    assert plan == (FIRST, Rung(10, 3, 1), Rung(20, 1, 1))
    # 6 alphas to step 5, 3 from 5 to 10, 1 from 10 to 20
    assert cost(plan, GRID, [0, 1, 2], 20) == Cost(spent=3 * (30 + 15 + 10), full_grid=360)


def test_where_halving_alone_would_cost_more_fewer_continue() -> None:
    """Six alphas to step 8 and three to step 20 are 84 of 120 steps; one to step 20 is 60."""
    plan = rungs(GRID, 20, replace_settings(first_step=8))
    assert plan == (Rung(8, 6, 1), Rung(20, 1, 1))
    assert cost(plan, GRID, [0], 20).share == 0.5


def test_a_plan_that_keeps_several_to_the_end() -> None:
    plan = rungs(range(11), 3000, replace_settings(first_step=200, survivors=2))
    assert plan == (Rung(200, 11, 5), Rung(400, 5, 2), Rung(3000, 2, 2))


@settings(max_examples=500)
@given(
    alphas=st.integers(1, 120),
    until_step=st.integers(1, 5000),
    first_step=st.integers(1, 5000),
    factor=st.integers(2, 6),
    survivors=st.integers(1, 120),
)
def test_every_plan_costs_at_most_half_of_the_full_grid(
    alphas: int, until_step: int, first_step: int, factor: int, survivors: int
) -> None:
    chosen = HalvingSettings(first_step=first_step, factor=factor, survivors=survivors)
    cheapest = alphas * first_step + survivors * (until_step - first_step)
    try:
        plan = rungs(range(alphas), until_step, chosen)
    except StudyError:
        assert survivors >= alphas or first_step >= until_step or 2 * cheapest > alphas * until_step
        return
    assert cost(plan, range(alphas), range(3), until_step).share <= 0.5
    assert len(plan) >= 2
    assert (plan[0].until_step, plan[0].alphas, plan[-1].until_step) == (first_step, alphas, until_step)
    assert plan[-1].survivors == plan[-1].alphas >= survivors
    for one, following in pairwise(plan):
        assert one.until_step < following.until_step
        assert one.alphas > one.survivors == following.alphas
        assert one.survivors <= max(survivors, one.alphas // factor)


@given(alphas=st.integers(3, 60), until_step=st.integers(2, 3000), survivors=st.integers(1, 20))
def test_the_first_step_that_the_error_names_is_the_largest_that_works(
    alphas: int, until_step: int, survivors: int
) -> None:
    with pytest.raises(StudyError) as error:
        rungs(range(alphas), until_step, HalvingSettings(first_step=until_step, survivors=survivors))
    _, named, rest = str(error.value).partition("first_step must be at most ")
    if not named:
        with pytest.raises(StudyError):
            rungs(range(alphas), until_step, HalvingSettings(first_step=1, survivors=survivors))
        return
    longest = int(rest.partition(";")[0])
    rungs(range(alphas), until_step, HalvingSettings(first_step=longest, survivors=survivors))
    with pytest.raises(StudyError):
        rungs(range(alphas), until_step, HalvingSettings(first_step=longest + 1, survivors=survivors))


def test_two_alphas_cannot_be_halved() -> None:
    with pytest.raises(StudyError, match="more than 2 alphas, more steps or fewer survivors are needed"):
        rungs(GRID[:2], 20, SETTINGS)


def replace_settings(**changes: object) -> HalvingSettings:
    return HalvingSettings.model_validate(SETTINGS.model_dump() | changes)


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_the_worse_half_is_dropped() -> None:
    levels = dict(zip(GRID, (0.3, 0.4, 0.6, 0.9, 0.7, 0.2), strict=True))
    decisions = decide(FIRST, *sweep(levels, [0, 1]), SETTINGS)
    assert decisions["alpha"].tolist() == GRID
    assert continuing(decisions) == ["0.3", "0.5", "0.7"]


def test_a_collapsing_alpha_is_dropped_however_good_its_score() -> None:
    levels = dict(zip(GRID, (0.3, 0.4, 0.6, 0.9, 0.7, 0.2), strict=True))
    decisions = decide(FIRST, *sweep(levels, [0, 1], collapsed=["0.5"]), SETTINGS)
    assert continuing(decisions) == ["0.1", "0.3", "0.7"]
    assert reasons(decisions)["0.5"] == "2 of its 2 runs collapsed."


def test_an_alpha_half_of_whose_runs_collapse_is_not_dropped_for_it() -> None:
    runs, verdicts = sweep(dict.fromkeys(GRID, 0.5), [0, 1])
    verdicts.loc[(verdicts["init"] == "alpha 0.0") & (verdicts["seed"] == 0), "verdict"] = "collapsed"
    assert "0.0" in continuing(decide(FIRST, runs, verdicts, SETTINGS))


def test_of_alphas_that_all_collapse_the_best_continues() -> None:
    levels = dict(zip(GRID, (0.3, 0.4, 0.6, 0.9, 0.7, 0.2), strict=True))
    decisions = decide(FIRST, *sweep(levels, collapsed=GRID), replace_settings(survivors=2))
    assert continuing(decisions) == ["0.5", "0.7"]
    assert "2 are to come to the end" in reasons(decisions)["0.5"]


def test_equal_alphas_continue_in_the_order_of_the_grid() -> None:
    assert continuing(decide(FIRST, *sweep(dict.fromkeys(reversed(GRID), 0.5)), SETTINGS)) == ["0.0", "0.1", "0.3"]


def test_only_the_last_fifth_before_the_rung_is_looked_at() -> None:
    runs, verdicts = sweep(dict.fromkeys(GRID, 0.5))
    runs.loc[(runs["init"] == "alpha 0.9") & (runs["step"] == 4), "score_mean"] = 7.0
    runs.loc[(runs["init"] == "alpha 0.7") & (runs["step"] != 4), "score_mean"] = 9.0  # before and after
    decisions = decide(FIRST, runs, verdicts, SETTINGS).set_index("alpha")
    assert decisions.loc["0.9", "value"] == 7.0
    assert decisions.loc["0.7", "decision"] == "dropped"


def test_growth_is_a_ratio() -> None:
    decisions = decide(FIRST, *sweep(dict.fromkeys(GRID, 0.5)), replace_settings(goal="growth"))
    assert decisions["value"].tolist() == pytest.approx([exp(0.5 * 4 / 20)] * 6)


def test_bands_are_over_seeds_and_what_noise_may_have_decided_is_said() -> None:
    levels = dict(zip(GRID, (0.1, 0.2, 0.3, 5.0, 6.0, 7.0), strict=True))
    runs, verdicts = sweep(levels, [0, 1, 2])
    generator = np.random.default_rng(3)
    luck = runs.groupby(["init", "seed"])["score_mean"].transform(lambda values: generator.normal(0, 0.02))
    decisions = decide(FIRST, runs.assign(score_mean=runs["score_mean"] + luck), verdicts, SETTINGS).set_index("alpha")
    assert (decisions["low"] < decisions["value"]).all()
    assert decisions.loc["0.3", "reason"] == "Number 4 of 6 by score, resolved from all that continue."
    one = decide(FIRST, *sweep(levels), SETTINGS).set_index("alpha")
    assert one["low"].isna().all()
    assert one.loc["0.3", "reason"] == "Number 4 of 6 by score, with one seed: it may be chance."


def test_missing_data_is_named_run_by_run() -> None:
    runs, verdicts = sweep(dict.fromkeys(GRID, 0.5), [0, 1])
    runs = runs[(runs["init"] != "alpha 0.3") | (runs["seed"] != 1)]
    runs = runs[(runs["init"] != "alpha 0.5") | (runs["step"] < 3) | (runs["seed"] != 0)]
    runs.loc[(runs["init"] == "alpha 0.7") & (runs["seed"] == 0), "score_mean"] = np.nan
    verdicts = verdicts[(verdicts["init"] != "alpha 0.9") | (verdicts["seed"] != 0)]
    with pytest.raises(DataError) as error:
        decide(FIRST, runs, verdicts, SETTINGS)
    for fault in (
        "alpha 0.3, seed 1 has no steps before 5",
        "alpha 0.5, seed 0 ends after 3 steps",
        "alpha 0.7, seed 0 has no score",
        "alpha 0.9, seed 0 has no verdicts",
        "nothing was decided",
    ):
        assert fault in str(error.value)


def test_an_alpha_without_any_run_is_named() -> None:
    levels = {alpha: 0.5 for alpha in GRID if alpha != "0.9"}
    with pytest.raises(DataError, match=r"alpha 0\.9, seed 0 has no steps"):
        decide(FIRST, *sweep(levels), SETTINGS, alphas=GRID)
    with pytest.raises(DataError, match=r"alpha 0\.9, seed unknown has no steps"):
        decide(FIRST, pd.DataFrame(columns=["init", "seed", "step"]), sweep(levels)[1], SETTINGS, alphas=GRID)


def test_a_run_that_was_stopped_because_it_collapsed_is_no_missing_data() -> None:
    runs, verdicts = sweep(dict.fromkeys(GRID, 0.5), collapsed=["0.0"])
    runs = runs[(runs["init"] != "alpha 0.0") | (runs["step"] < 3)]
    assert "0.0" not in continuing(decide(FIRST, runs, verdicts, SETTINGS))


def test_more_alphas_than_the_rung_has_are_an_error() -> None:
    with pytest.raises(DataError, match=r"expected 3 alphas or fewer.*there are 6 alphas"):
        decide(Rung(10, 3, 1), *sweep(dict.fromkeys(GRID, 0.5)), SETTINGS)


@given(
    levels=st.lists(st.integers(-50, 50), min_size=3, max_size=11, unique=True),
    survivors=st.integers(1, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_the_best_of_curves_that_keep_their_order_wins_within_the_budget(
    levels: list[int], survivors: int, seed: int
) -> None:
    grid = [f"{i / 20:.2f}" for i in range(len(levels))]
    runs, verdicts = sweep(dict(zip(grid, (level / 10 for level in levels), strict=True)))
    runs = runs.sample(frac=1, random_state=seed)
    chosen = replace_settings(first_step=2, survivors=survivors)
    try:
        plan = rungs(grid, 20, chosen)
    except StudyError:
        return
    alive, done = grid, []
    for rung in plan[:-1]:
        done.append(replace(rung, alphas=len(alive)))
        alive = continuing(decide(rung, runs, verdicts, chosen, alphas=alive))
    done.append(replace(plan[-1], alphas=len(alive)))
    ranked = sorted(grid, key=lambda alpha: -levels[grid.index(alpha)])
    assert set(alive) == set(ranked[: len(alive)])
    assert len(alive) >= survivors
    assert cost(done, grid, [0], 20).share <= 0.5


# -- beside the full grid ----------------------------------------------------------------------------------------------


def advised(runs: pd.DataFrame, verdicts: pd.DataFrame) -> Recommendation:
    return recommend(runs, verdicts, alphas=GRID, settings=DynamicsSettings())


def test_halving_and_the_full_grid_side_by_side() -> None:
    levels = dict(zip(GRID, (0.3, 0.4, 0.6, 0.9, 0.7, 0.2), strict=True))
    runs, verdicts = sweep(levels, [0, 1, 2])
    full = advised(runs, verdicts)
    shown = compare(advised(runs[(runs["init"] == "alpha 0.5") | (runs["step"] < 5)], verdicts), full)
    assert shown["goal"].tolist() == full.goals["goal"].tolist()
    score = shown.set_index("goal").loc["score"]
    assert (score["agreement"], score["halving"], score["full"]) == ("same", "0.5", "0.5")
    assert score["halving_value"] == score["full_value"]
    assert shown.set_index("goal").loc["benchmark average", "agreement"] == "not compared"


def test_another_choice_is_tied_or_different_by_what_the_full_grid_resolves() -> None:
    runs, verdicts = sweep({"0.3": 0.1, "0.5": 0.9}, [0, 1, 2])
    generator = np.random.default_rng(2)
    runs["score_mean"] += runs.groupby(["init", "seed"])["score_mean"].transform(lambda v: generator.normal(0, 0.001))
    full = advised(runs, verdicts)
    one, few = advised(runs[runs["init"] == "alpha 0.3"], verdicts), advised(runs[runs["seed"] == 0], verdicts)
    assert compare(one, full).set_index("goal").loc["score", "agreement"] == "different"
    assert compare(one, few).set_index("goal").loc["score", "agreement"] == "tied"
