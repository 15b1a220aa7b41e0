"""Sweeps with known answers: what is best, what is only noise, and what must be said."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.next_alphas import midpoint
from bai_pipeline.dynamics.recommendation import GOAL_COLUMNS, Recommendation, recommend
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.errors import DataError

SETTINGS = DynamicsSettings()
STEPS = 20
PEAK = {"0.1": 0.2, "0.3": 0.5, "0.5": 0.9, "0.7": 0.6}
"""The level of each alpha; alpha 0.5 is best by far."""


def runs_table(
    levels: Mapping[str, float], seeds: Sequence[int] = (0, 1, 2), *, noise: float = 0.01, steps: int = STEPS
) -> pd.DataFrame:
    """Score and accuracy stay at the level; the length ends at (1 + level) times its start of 50 tokens."""
    generator = np.random.default_rng(7)
    tables = []
    for alpha, level in levels.items():
        for seed in seeds:
            luck = level + noise * generator.standard_normal()
            table = pd.DataFrame({"init": f"alpha {alpha}", "seed": seed, "step": range(steps)})
            table["length_mean"] = 50 * np.where(table["step"] == 0, 1, 1 + luck)
            tables.append(table.assign(score_mean=luck, accuracy=min(1.0, luck)))
    return pd.concat(tables, ignore_index=True)


def verdicts_table(runs: pd.DataFrame, failed: Mapping[tuple[str, int], str] | None = None) -> pd.DataFrame:
    """Every run is healthy but for those of `failed`: (alpha, seed) → the verdict of length_collapse."""
    lines = runs[["init", "seed"]].drop_duplicates().assign(detector="length_collapse", verdict="healthy")
    for (alpha, seed), word in (failed or {}).items():
        lines.loc[(lines["init"] == f"alpha {alpha}") & (lines["seed"] == seed), "verdict"] = word
    return lines


def scores_table(levels: Mapping[str, float], seeds: Sequence[int] = (0, 1, 2), noise: float = 0.01) -> pd.DataFrame:
    generator = np.random.default_rng(11)
    return pd.DataFrame(
        [
            {
                "alpha": a,
                "seed": s,
                "benchmark": b,
                "score": level + noise * generator.standard_normal(),
                "stderr": 0.02,
            }
            for a, level in levels.items()
            for s in seeds
            for b in ("sum", "alt")
        ]
    )


def advice(
    runs: pd.DataFrame, verdicts: pd.DataFrame | None = None, scores: pd.DataFrame | None = None
) -> Recommendation:
    found = runs_table(PEAK) if runs.empty else runs
    return recommend(
        runs, verdicts_table(found) if verdicts is None else verdicts, scores, alphas=list(PEAK), settings=SETTINGS
    )


def line(advised: Recommendation, goal: str) -> dict[str, Any]:
    (found,) = advised.goals[advised.goals["goal"] == goal].to_dict("records")
    return {str(column): value for column, value in found.items()}


def next_of(advised: Recommendation) -> dict[str, str]:
    return dict(zip(advised.next_alphas["alpha"], advised.next_alphas["reason"], strict=True))


# -- the best ----------------------------------------------------------------------------------------------------------


def test_a_clear_peak_is_best_and_resolved_for_every_goal() -> None:
    advised = advice(runs_table(PEAK), scores=scores_table(PEAK))
    goals = advised.goals
    assert list(goals.columns) == GOAL_COLUMNS
    names = ["stability", "growth", "score", "accuracy", "benchmark sum", "benchmark alt", "benchmark average"]
    assert goals["goal"].tolist() == names
    assert goals["alpha"].tolist()[1:] == ["0.5"] * 6
    assert goals["resolved"].tolist() == [False] + [True] * 6
    assert goals["tied"].tolist()[1:] == [""] * 6


def test_an_alpha_that_is_compared_with_none_is_not_called_best() -> None:
    found = line(advice(runs_table({"0.3": 0.5})), "score")
    assert found["alpha"] == "0.3"
    assert not found["resolved"]
    assert found["reason"].startswith("Alpha 0.3 is the only alpha that can be compared: the score at the end is 0.5 (")
    assert "best" not in found["reason"]


def test_growth_is_the_ratio_of_the_last_fifth_to_the_first_step() -> None:
    grown = line(advice(runs_table(PEAK, noise=0.0)), "growth")
    assert grown["value"] == pytest.approx(1.9)
    assert grown["unit"] == "times the start"


def test_growth_averages_logarithms_over_seeds() -> None:
    runs = runs_table({"0.5": 0.0}, [0, 1], noise=0.0)
    later = runs["step"] > 0
    runs.loc[later & (runs["seed"] == 0), "length_mean"] = 100.0  # twice the start
    runs.loc[later & (runs["seed"] == 1), "length_mean"] = 25.0  # half of it
    assert line(advice(runs), "growth")["value"] == pytest.approx(1.0)


def test_the_end_is_the_last_fifth_of_the_steps() -> None:
    runs = runs_table({"0.5": 0.0}, [0], noise=0.0)
    runs["score_mean"] = [0.0] * 16 + [1.0, 2.0, 3.0, 4.0]
    assert line(advice(runs), "score")["value"] == pytest.approx(2.5)


def test_the_band_of_three_seeds_is_students() -> None:
    runs = runs_table({"0.5": 0.0}, noise=0.0)
    runs["score_mean"] = runs["seed"].map({0: 1.0, 1: 2.0, 2: 3.0})
    found = line(advice(runs), "score")
    half = 4.302653 / 3**0.5  # t at 0.975 with 2 degrees of freedom, s = 1
    assert (found["low"], found["high"]) == pytest.approx((2 - half, 2 + half))


def test_the_band_of_a_benchmark_holds_the_choice_of_questions_too() -> None:
    scores = scores_table({"0.5": 0.5}, noise=0.0)
    found = line(advice(runs_table({"0.5": 0.5}), scores=scores), "benchmark sum")
    assert found["high"] - found["value"] == pytest.approx(4.302653 * 0.02)


def test_one_seed_resolves_nothing_and_has_no_band() -> None:
    found = line(advice(runs_table(PEAK, [0])), "score")
    assert found["alpha"] == "0.5"
    assert not found["resolved"]
    assert np.isnan(found["low"])
    assert "With one seed nothing is resolved" in found["reason"]


def test_alphas_that_differ_by_less_than_the_noise_are_tied() -> None:
    levels = {"0.1": 0.2, "0.3": 0.5, "0.5": 0.9, "0.7": 0.9005}
    found = line(advice(runs_table(levels, noise=0.01)), "score")
    assert not found["resolved"]
    assert {found["alpha"], found["tied"]} == {"0.5", "0.7"}
    assert f"not resolved from alpha {found['tied']} by paired tests, corrected for 6 pairs" in found["reason"]


def test_luck_that_all_alphas_of_a_seed_share_hides_no_difference() -> None:
    """The seeds spread over 2, the alphas differ by 0.1: only pairs show it."""
    runs = runs_table(PEAK, noise=0.001)
    runs["score_mean"] += runs["seed"]
    assert line(advice(runs), "score")["resolved"]


def test_equal_alphas_are_named_as_equal() -> None:
    found = line(advice(runs_table(PEAK)), "stability")
    assert (found["alpha"], found["tied"], found["value"]) == ("0.1", "0.3, 0.5, 0.7", 1.0)
    assert "Alpha 0.3, 0.5 and 0.7 are equal to it" in found["reason"]


def test_the_best_of_noise_is_said_to_be_too_high() -> None:
    flat = dict.fromkeys(PEAK, 0.5)
    reason = line(advice(runs_table(flat, noise=0.1)), "score")["reason"]
    assert "The best of 4 is picked for being high" in reason


# -- chains ------------------------------------------------------------------------------------------------------------


def in_chains(chains: int, seeds: int, luck: Sequence[float]) -> pd.DataFrame:
    """Alpha 0.5 is ahead of 0.3 by `luck[chain]` in every seed of the chain."""
    tables = []
    for chain in range(chains):
        runs = runs_table({"0.3": 0.5, "0.5": 0.5}, range(seeds), noise=0.001).assign(chain=f"chain {chain}")
        runs.loc[runs["init"] == "alpha 0.5", "score_mean"] += luck[chain]
        tables.append(runs)
    return pd.concat(tables, ignore_index=True)


def chain_advice(runs: pd.DataFrame) -> dict[str, Any]:
    verdicts = runs[["init", "chain", "seed"]].drop_duplicates().assign(detector="length_collapse", verdict="healthy")
    return line(recommend(runs, verdicts, alphas=["0.3", "0.5"], settings=SETTINGS), "score")


def test_many_seeds_of_few_chains_do_not_count_as_many() -> None:
    """Ahead by 0.3 and 0.1 in ten seeds each: p would be tiny over the runs, over two chains it is 0.3."""
    runs = in_chains(2, 10, [0.3, 0.1])
    assert not chain_advice(runs)["resolved"]
    one_chain = runs.assign(seed=runs["seed"] + 10 * (runs["chain"] == "chain 1")).drop(columns="chain")
    assert line(recommend(one_chain, verdicts_table(one_chain), alphas=["0.3", "0.5"], settings=SETTINGS), "score")[
        "resolved"
    ]


def test_chains_that_agree_resolve() -> None:
    found = chain_advice(in_chains(3, 2, [0.30, 0.31, 0.29]))
    assert found["resolved"]
    assert "6 runs of 3 chains" in found["reason"]
    assert "one chain" not in found["reason"]


def test_one_chain_is_said() -> None:
    assert "All runs are of one chain" in line(advice(runs_table(PEAK)), "score")["reason"]


def test_a_line_without_its_chain_is_an_error() -> None:
    runs = in_chains(2, 1, [0.3, 0.1])
    runs.loc[0, "chain"] = None
    with pytest.raises(DataError, match="a chain in every line"):
        chain_advice(runs)


# -- failures, gaps ----------------------------------------------------------------------------------------------------


def test_stability_is_the_share_of_runs_in_which_nothing_failed() -> None:
    runs = runs_table(PEAK)
    failed = {("0.1", 0): "collapsed", ("0.3", 1): "collapsed", ("0.3", 2): "collapsed", ("0.5", 0): "collapsed"}
    found = line(advice(runs, verdicts_table(runs, failed)), "stability")
    assert (found["alpha"], found["value"], found["seeds"]) == ("0.7", 1.0, 3)
    assert found["low"] == pytest.approx(3 / (3 + 1.959964**2))  # Wilson's bound of n of n: n / (n + z²)


def test_an_alpha_whose_runs_collapsed_is_not_recommended_without_saying_so() -> None:
    runs = runs_table(PEAK)
    verdicts = verdicts_table(runs, {("0.5", 0): "collapsed", ("0.5", 1): "collapsed"})
    found = line(advice(runs, verdicts), "score")
    assert found["alpha"] == "0.5"
    assert "Beware: most of its runs failed, 2 of 3 (length_collapse collapsed)." in found["reason"]


def test_a_run_of_which_nothing_is_determined_does_not_count() -> None:
    runs = runs_table(PEAK)
    found = line(advice(runs, verdicts_table(runs, {("0.1", 0): "undetermined"})), "stability")
    assert (found["alpha"], found["seeds"]) == ("0.1", 2)


def test_runs_that_were_stopped_are_not_compared_at_an_earlier_step() -> None:
    runs = runs_table(PEAK)
    runs = runs[(runs["init"] != "alpha 0.5") | (runs["seed"] != 1) | (runs["step"] < 8)]
    found = line(advice(runs), "score")
    assert found["alpha"] == "0.7"
    assert "Not compared: alpha 0.5 (1 of 3 runs ended before step 20)." in found["reason"]


def test_a_stopped_run_is_unstable_only_if_something_failed() -> None:
    runs = runs_table(PEAK)
    runs = runs[(runs["init"] != "alpha 0.5") | (runs["step"] < 8)]
    assert "alpha 0.5" in line(advice(runs), "stability")["reason"]  # left out
    failed = {("0.5", seed): "collapsed" for seed in range(3)}
    assert "Not compared" not in line(advice(runs, verdicts_table(runs, failed)), "stability")["reason"]


def test_absent_runs_scores_and_accuracy_are_named() -> None:
    runs = runs_table({a: v for a, v in PEAK.items() if a != "0.7"}).drop(columns="accuracy")
    scores = scores_table(PEAK)
    scores.loc[(scores["alpha"] == "0.5") & (scores["seed"] == 2), "score"] = None
    advised = advice(runs, scores=scores)
    assert "Not compared: alpha 0.7 (no runs)." in line(advised, "score")["reason"]
    accuracy = line(advised, "accuracy")
    assert accuracy["alpha"] is None
    assert "alpha 0.1, 0.3 and 0.5 (no accuracy of 3 of 3 runs)" in accuracy["reason"]
    average = line(advised, "benchmark average")
    assert average["alpha"] == "0.7"
    assert "alpha 0.5 (no benchmark average of 1 of 3 runs)" in average["reason"]


def test_a_sweep_without_runs_is_all_holes() -> None:
    advised = advice(pd.DataFrame(columns=["init", "seed", "step"]))
    assert advised.goals["alpha"].isna().all()
    assert all(alpha is None for alpha in advised.goals["alpha"])
    assert line(advised, "benchmark average")["reason"] == "No benchmark was scored."
    assert advised.next_alphas.empty
    assert "Nothing: no rule asks" in advised.to_text()


def test_the_order_of_lines_and_other_inits_change_nothing() -> None:
    runs, scores = runs_table(PEAK), scores_table(PEAK)
    one = advice(runs, scores=scores)
    more = pd.concat([runs, runs_table({"0.9": 5.0}), runs[:STEPS].assign(init="paradigm_3")])
    other = advice(more.sample(frac=1, random_state=0), scores=scores.sort_values("score", ignore_index=True))
    columns = [name for name in GOAL_COLUMNS if name not in ("reason",)]
    left, right = (a.goals[columns].set_index("goal").sort_index() for a in (one, other))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.parametrize("table", ["runs", "verdicts", "scores"])
def test_a_line_that_is_there_twice_is_an_error(table: str) -> None:
    runs, scores = runs_table(PEAK), scores_table(PEAK)
    tables = {"runs": runs, "verdicts": verdicts_table(runs), "scores": scores}
    tables[table] = pd.concat([tables[table], tables[table][:1]])
    with pytest.raises(DataError, match=r"got several for alpha 0\.1, seed 0"):
        advice(**tables)


def test_an_absent_column_is_named() -> None:
    with pytest.raises(DataError, match="expected a table with length_mean"):
        advice(runs_table(PEAK).drop(columns="length_mean"))


# -- what to train next ------------------------------------------------------------------------------------------------


def test_a_resolved_peak_asks_for_the_middles_beside_it() -> None:
    asked = next_of(advice(runs_table(PEAK), scores=scores_table(PEAK)))
    goals = "(growth, score, accuracy, benchmark average)"
    assert asked == {
        "0.4": f"Between alpha 0.5, the best, and alpha 0.3, which is lower {goals}.",
        "0.6": f"Between alpha 0.5, the best, and alpha 0.7, which is lower {goals}.",
    }


def test_a_resolved_best_at_the_end_of_the_grid_asks_beyond_it() -> None:
    assert set(next_of(advice(runs_table({"0.1": 0.2, "0.3": 0.5, "0.5": 0.7, "0.7": 0.9})))) == {"0.6", "0.85"}


def test_noise_asks_for_seeds_at_the_best_and_its_rival_and_for_how_many() -> None:
    levels = {"0.1": 0.1, "0.3": 0.2, "0.5": 0.9, "0.7": 0.85}
    runs = runs_table(levels, noise=0.0001)
    runs.loc[runs["init"] == "alpha 0.7", "score_mean"] += runs["seed"].map({0: 0.05, 1: -0.05, 2: 0.0})
    asked = next_of(advice(runs.drop(columns="accuracy").assign(length_mean=50.0)))
    # About d = s = 0.05: √n > t at 0.975 with n − 1 degrees of freedom, first at n = 7: 2.646 > 2.447, 2.449 < 2.571.
    assert "More seeds: it is not resolved from alpha 0.7 (score: 7 in all or more)." in asked["0.5"]
    assert "score: 7 in all or more" in asked["0.7"]
    assert not asked.keys() & {"0.55", "0.6", "0.65"}


def test_the_border_of_stability_is_asked_for_first() -> None:
    runs = runs_table(PEAK)
    verdicts = verdicts_table(runs, {("0.1", 0): "collapsed", ("0.1", 2): "collapsed"})
    asked = next_of(advice(runs, verdicts))
    assert next(iter(asked)) == "0.2"
    assert asked["0.2"] == "Border: alpha 0.3 is stable in 100% of its runs, alpha 0.1 in 33% (stability)."


@pytest.mark.parametrize(
    ("better", "worse", "new"),
    [
        ("0.5", "0.3", "0.4"),
        ("0.5", "0.4", "0.45"),
        ("0.5", "0.45", None),
        ("0.3", "0.45", "0.35"),  # 0.35 and 0.4 are as near to the middle: the one on the better side
        ("0.45", "0.3", "0.4"),
        ("0.12", "0.3", "0.2"),
        ("0.9", "1.0", "0.95"),
    ],
)
def test_a_new_alpha_lies_on_the_grid_of_a_twentieth(better: str, worse: str, new: str | None) -> None:
    assert midpoint(better, worse) == new


def test_text_holds_every_reason() -> None:
    advised = advice(runs_table(PEAK), scores=scores_table(PEAK))
    text = advised.to_text()
    assert all(reason in text for reason in [*advised.goals["reason"], *advised.next_alphas["reason"]])
    assert "**score**: Alpha 0.5 is best" in text


def test_growth_of_length_zero_is_unknown_not_infinite() -> None:
    runs = runs_table({"0.3": 0.1, "0.5": log(2)})
    runs.loc[(runs["init"] == "alpha 0.5") & (runs["step"] == 0), "length_mean"] = 0.0
    found = line(advice(runs), "growth")
    assert found["alpha"] == "0.3"
    assert "alpha 0.5 (no growth of 3 of 3 runs)" in found["reason"]
