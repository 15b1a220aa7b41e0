from fractions import Fraction
from math import comb, isnan, nan, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bai_pipeline.errors import DataError
from bai_pipeline.evals.comparisons import (
    COLUMNS,
    QUESTION_COLUMNS,
    Standing,
    best_rows,
    holm,
    mcnemar,
    paired_comparisons,
)

Scores = list[float]


def questions(
    row: str, scores: Scores, *, benchmark: str = "b", seed: int = 0, first: int = 0, weights: Scores | None = None
) -> pd.DataFrame:
    """One seed of a row; question ids count from `first`."""
    ids = [f"q{first + i:05d}" for i in range(len(scores))]
    return pd.DataFrame(
        {
            "row": row,
            "seed": seed,
            "benchmark": benchmark,
            "id": ids,
            "score": np.array(scores, dtype=np.float64),
            "weight": weights or 1.0,
        }
    )


def compare(*tables: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    return paired_comparisons(pd.concat(tables, ignore_index=True), resamples=resamples, seed=seed)


def noisy(rng: np.random.Generator, n: int, shift: float = 0.0) -> Scores:
    return [float(x) for x in np.clip(rng.normal(0.5 + shift, 0.2, n), 0, 1)]


# -- McNemar -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    # the binomial sum, twice: 2 (C(9,0) + C(9,1)) / 2^9; 2 C(6,0) / 2^6; 2 (1 + 10 + 45) / 2^10
    [(1, 8, 20 / 512), (8, 1, 20 / 512), (0, 6, 2 / 64), (8, 2, 112 / 1024), (5, 5, 1.0), (0, 0, 1.0), (1, 0, 1.0)],
)
def test_mcnemars_p_is_the_binomial_sum(better: int, worse: int, p: float) -> None:
    assert mcnemar(better, worse) == p


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemars_p_is_exact(better: int, worse: int) -> None:
    n = better + worse
    tail = sum(Fraction(comb(n, k), 2**n) for k in range(min(better, worse) + 1))
    assert mcnemar(better, worse) == float(min(Fraction(1), 2 * tail))


def test_mcnemars_p_of_thousands_of_questions_is_the_normal_one() -> None:
    # z = (300 - 1) / √26,300 = 1.844 with the correction for continuity: p = 0.0652
    assert mcnemar(13_000, 13_300) == pytest.approx(0.0652, abs=2e-4)
    assert mcnemar(0, 5000) == 0.0  # 2^-4999, below every float


def test_right_or_wrong_answers_of_one_seed_each_are_compared_by_mcnemar() -> None:
    a, b = [1.0] * 8 + [0.0] + [1.0] * 3, [0.0] * 8 + [1.0] + [1.0] * 3
    line = compare(questions("A", a), questions("B", b)).iloc[0]
    assert (line["row"], line["other"], line["benchmark"], line["method"]) == ("A", "B", "b", "McNemar")
    assert (line["n"], line["left_out"], line["better"], line["worse"]) == (12, 0, 8, 1)
    assert (line["score"], line["other_score"]) == pytest.approx((11 / 12, 4 / 12))
    assert line["difference"] == pytest.approx(7 / 12)
    # differences 8 × 1, 1 × (−1), 3 × 0: Σ d² = 9, variance (9 − 12 (7/12)²) / 11
    assert line["stderr"] == pytest.approx(sqrt((9 - 49 / 12) / 11 / 12))
    assert line["p"] == 20 / 512
    assert line["low"] < 7 / 12 < line["high"]


@pytest.mark.parametrize("change", ["score", "weight", "seeds"])
def test_anything_else_is_compared_by_the_bootstrap(change: str) -> None:
    a, b = questions("A", [1.0, 1, 0, 1, 0]), questions("B", [0.0, 1, 1, 0, 0])
    if change == "score":
        a.loc[0, "score"] = 0.5
    elif change == "weight":
        b.loc[0, "weight"] = 2.0
    else:
        a = pd.concat([a, questions("A", [1.0, 0, 0, 1, 0], seed=1)])
    assert compare(a, b).iloc[0]["method"] == "bootstrap"


# -- the bootstrap -----------------------------------------------------------------------------------------------------


def test_the_bootstraps_interval_is_the_normal_one_where_there_are_many_questions() -> None:
    rng = np.random.default_rng(1)
    line = compare(questions("A", noisy(rng, 2000)), questions("B", noisy(rng, 2000)), resamples=20_000).iloc[0]
    half = 1.96 * line["stderr"]
    assert line["low"] == pytest.approx(line["difference"] - half, abs=0.03 * half)
    assert line["high"] == pytest.approx(line["difference"] + half, abs=0.03 * half)


def test_answers_to_the_same_questions_are_paired() -> None:
    """Hard questions are hard for both: a gain of 0.02 on each is seen through a spread of 0.3 between questions."""
    rng = np.random.default_rng(2)
    hardness = rng.uniform(0.1, 0.9, 100)
    b = hardness + rng.normal(0, 0.01, 100)
    line = compare(questions("A", [float(x) for x in hardness + 0.02]), questions("B", [float(x) for x in b])).iloc[0]
    assert line["stderr"] < 0.002
    assert line["p"] < 0.01


def test_each_rows_own_weights_count() -> None:
    a = questions("A", [1.0, 0.0], weights=[3.0, 1.0])  # mean 3/4, influences ±3/8
    b = questions("B", [0.5, 0.0], weights=[1.0, 1.0])  # mean 1/4, influences ±1/4
    line = compare(a, b).iloc[0]
    assert line["difference"] == pytest.approx(0.5)
    # differences of influences ±1/8: (2/64) / (2 * 1) = 1/64
    assert line["stderr"] == pytest.approx(1 / 8)


def test_a_few_equal_differences_show_no_more_than_their_signs() -> None:
    # every one of 5 differences is 0.2, so no resample differs: 2 / 2^5 all the same
    line = compare(questions("A", [0.5] * 5 + [0.1] * 20), questions("B", [0.3] * 5 + [0.1] * 20)).iloc[0]
    assert (line["better"], line["worse"]) == (5, 0)
    assert line["p"] >= 2 / 2**5
    assert compare(questions("A", [0.5] * 3), questions("B", [0.3] * 3)).iloc[0]["p"] == 2 / 2**3


@pytest.mark.parametrize("scores", [[1.0, 0.0, 1.0, 1.0], [0.3, 0.7, 0.1, 1 / 3]])
def test_a_row_does_not_differ_from_itself(scores: Scores) -> None:
    line = compare(questions("A", scores), questions("B", scores)).iloc[0]
    assert (line["difference"], line["stderr"], line["p"], line["p_holm"]) == (0.0, 0.0, 1.0, 1.0)
    assert (line["low"], line["high"]) == (0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 4), min_size=2, max_size=12), st.integers(0, 1000)
)
def test_swapping_the_rows_flips_the_sign(rows: list[tuple[float, ...]], seed: int) -> None:
    columns = [[float(row[i]) for row in rows] for i in range(4)]
    runs = [(name, s) for name in "AB" for s in (0, 1)]
    tables = [questions(name, c, seed=s) for (name, s), c in zip(runs, columns, strict=True)]
    line = compare(*tables, resamples=300, seed=seed).iloc[0]
    flipped = compare(*tables[2:], *tables[:2], resamples=300, seed=seed).iloc[0]
    assert (line["row"], flipped["row"]) == ("A", "B")
    assert flipped["p"] == pytest.approx(line["p"])
    assert flipped["stderr"] == pytest.approx(line["stderr"], abs=1e-12)
    assert (flipped["difference"], flipped["low"], flipped["high"]) == pytest.approx(
        (-line["difference"], -line["high"], -line["low"]), abs=1e-9
    )
    assert (flipped["better"], flipped["worse"]) == (line["worse"], line["better"])


def test_the_result_depends_on_the_seed_and_not_on_the_order_of_the_lines_or_on_other_benchmarks() -> None:
    rng = np.random.default_rng(3)
    tables = [questions(row, noisy(rng, 30), benchmark=b) for b in ("b", "c") for row in "AB"]
    whole = compare(*tables)
    shuffled = [table.sample(frac=1, random_state=1) for table in tables]
    pd.testing.assert_frame_equal(compare(*shuffled), whole)
    numbers = ["difference", "stderr", "low", "high", "p"]
    alone = compare(*tables[:2]).iloc[0][numbers].astype(float)
    assert list(alone) == pytest.approx(list(whole.iloc[0][numbers].astype(float)))
    assert compare(*tables, seed=1).iloc[0]["low"] != whole.iloc[0]["low"]


# -- calibration -------------------------------------------------------------------------------------------------------

SIMULATIONS = 150
NOISE = 3 * sqrt(0.05 * 0.95 / SIMULATIONS)
"""Three standard deviations of the share of rejections."""


def test_without_a_difference_one_in_twenty_is_found() -> None:
    rng = np.random.default_rng(4)
    names = [f"b{i}" for i in range(SIMULATIONS)]
    table = compare(*[questions(row, noisy(rng, 30), benchmark=b) for b in names for row in "AB"], resamples=1000)
    assert (table["p"][:SIMULATIONS] <= 0.05).mean() == pytest.approx(0.05, abs=NOISE)


def test_without_a_difference_between_averages_one_in_twenty_is_found() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(SIMULATIONS):
        table = compare(
            *[questions(row, noisy(rng, n), benchmark=f"b{n}") for n in (20, 40) for row in "AB"], resamples=500
        )
        found.append(table["p"].iloc[-1] <= 0.05)
    assert np.mean(found) == pytest.approx(0.05, abs=NOISE)


@pytest.mark.parametrize(("between", "seeds"), [(0.2, 3), (0.03, 2)])
def test_the_spread_of_seeds_is_no_difference_between_rows(between: float, seeds: int) -> None:
    """Each seed of each row has an effect of its own, small or large beside the noise of questions (0.03 for 40)."""
    rng = np.random.default_rng(6)
    tables = []
    for i in range(SIMULATIONS):
        hardness = rng.normal(0, 0.2, 40)
        for row in "AB":
            for s in range(seeds):
                scores = rng.normal(0, between) + hardness + rng.normal(0, 0.2, 40)
                tables.append(questions(row, [float(x) for x in scores], benchmark=f"b{i}", seed=s))
    table = compare(*tables, resamples=1000)
    assert (table["p"][:SIMULATIONS] <= 0.05).mean() <= 0.05 + NOISE


# -- seeds -------------------------------------------------------------------------------------------------------------


def test_the_spread_of_seeds_adds_to_the_error() -> None:
    a = [0.1, 0.3, 0.5, 0.7]
    tables = [questions("A", a), questions("A", [x + 0.2 for x in a], seed=1), questions("B", a)]
    line = compare(*tables).iloc[0]
    # seed 1 is 0.2 above seed 0 on every question: no noise of single answers, s² = 0.02, s² / 2 = 0.01; A's mean
    # scores differ from B's by 0.1 on every question: nothing from the choice of questions
    assert line["difference"] == pytest.approx(0.1)
    assert line["stderr"] == pytest.approx(0.1)


def test_noise_of_single_answers_is_not_counted_as_a_spread_of_seeds() -> None:
    # seeds disagree on every question and have the same mean: their spread is 0, what is left is the questions' part;
    # A's mean over seeds is 0.5 everywhere, B's scores have the variance (4 × 0.25) / 3 over n = 4: 1/12
    tables = [questions("A", [1.0, 0, 1, 0]), questions("A", [0.0, 1, 0, 1], seed=1), questions("B", [1.0, 0, 0, 1])]
    assert compare(*tables).iloc[0]["stderr"] == pytest.approx(sqrt(1 / 12))


def test_three_seeds_above_three_others_are_not_enough_by_themselves() -> None:
    """It happens by chance one time in ten. Questions contribute nothing here: all of a seed's scores are equal."""
    a, b = (0.50, 0.56, 0.62), (0.44, 0.46, 0.48)
    tables = [questions(row, [x] * 50, seed=s) for row, means in (("A", a), ("B", b)) for s, x in enumerate(means)]
    line = compare(*tables, resamples=20_000).iloc[0]
    # Welch: s² = 0.0036 and 0.0004, error √(0.004 / 3), t = 0.1 / 0.0365 = 2.739 at 4² / (3.6² + 0.4²) * 2 = 2.44
    # degrees of freedom: p between those of t with 2 (0.111) and 3 (0.071)
    assert line["stderr"] == pytest.approx(sqrt(0.004 / 3))
    assert 0.07 < line["p"] < 0.112


# -- questions and averages --------------------------------------------------------------------------------------------


def test_only_questions_that_both_answered_are_compared() -> None:
    a, b = questions("A", [1.0, 1, 0, 1]), questions("B", [1.0, 0, 0, 1, 0], first=1)
    line = compare(a, b).iloc[0]
    assert (line["n"], line["left_out"]) == (3, 3)
    assert (line["score"], line["other_score"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_question_that_one_seed_missed_is_left_out() -> None:
    tables = [questions("A", [1.0, 1, 0]), questions("A", [1.0, 1], seed=1), questions("B", [1.0, 0, 1])]
    line = compare(*tables).iloc[0]
    assert (line["n"], line["left_out"], line["difference"]) == (2, 1, 0.5)


def test_rows_without_a_common_question_are_not_compared() -> None:
    assert compare(questions("A", [1.0]), questions("B", [1.0], first=7)).empty
    assert compare(questions("A", [1.0, 0.0])).empty


def test_one_question_shows_nothing() -> None:
    line = compare(questions("A", [1.0]), questions("B", [0.25])).iloc[0]
    assert (line["difference"], line["p"]) == (0.75, 1.0)
    assert all(isnan(line[column]) for column in ("stderr", "low", "high"))


def test_the_average_weighs_benchmarks_equally() -> None:
    tables = [
        questions("A", [1.0, 0, 1, 1], benchmark="b"),
        questions("B", [1.0, 0, 0, 1], benchmark="b"),
        questions("A", [1.0, 0], benchmark="c"),
        questions("B", [0.0, 1], benchmark="c"),
    ]
    b, c, average = (line for _, line in compare(*tables).iterrows())
    assert average["benchmark"] == "average"
    assert average["method"] == "bootstrap"
    assert (average["n"], average["better"], average["worse"]) == (6, 2, 1)
    assert average["difference"] == pytest.approx((0.25 + 0.0) / 2)
    assert average["stderr"] == pytest.approx(sqrt(b["stderr"] ** 2 + c["stderr"] ** 2) / 2)


def test_a_row_that_lacks_a_benchmark_or_a_seed_of_one_has_no_average() -> None:
    tables = [questions(row, [1.0, 0, 0.5], benchmark=b) for row in "ABC" for b in "bc"]
    tables += [questions("D", [1.0, 0, 0.5], benchmark="b"), questions("C", [1.0, 0, 0.5], benchmark="c", seed=1)]
    table = compare(*tables)
    averages = table[table["benchmark"] == "average"]
    assert list(zip(averages["row"], averages["other"], strict=True)) == [("A", "B")]
    assert (table["benchmark"] == "b").sum() == 6
    assert (table["benchmark"] == "c").sum() == 3


def test_only_the_rows_asked_for_are_compared_in_their_order() -> None:
    tables = [questions(row, [1.0, 0], benchmark=b) for row, b in (("A", "b"), ("B", "b"), ("C", "b"), ("C", "c"))]
    table = paired_comparisons(pd.concat(tables), ["D", "B", "A"], resamples=100)
    assert table[["row", "other", "benchmark"]].to_numpy().tolist() == [["B", "A", "b"]]


def test_one_benchmark_is_not_compared_twice() -> None:
    assert list(compare(questions("A", [1.0, 0]), questions("B", [0.0, 0]))["benchmark"]) == ["b"]


# -- Holm and the best row ---------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04: 3 × 0.01, 2 × 0.03, and 0.04 raised to the one before
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_all_comparisons_of_the_table_are_corrected_together() -> None:
    a, b, c = [1.0] * 9, [0.0] * 9, [0.0] * 8 + [1.0]
    table = compare(questions("A", a), questions("B", b), questions("C", c))
    # 2/512 for A-B, 2/256 for A-C (8 against 0), 1 for B-C
    assert list(table["p"]) == [2 / 512, 2 / 256, 1.0]
    assert list(table["p_holm"]) == pytest.approx([6 / 512, 4 / 256, 1.0])


def test_many_comparisons_get_the_resamples_that_holm_needs() -> None:
    """24 rows make 276 comparisons: with 10,000 resamples the smallest p would become 2 × 276 / 10,001 = 0.055."""
    rng = np.random.default_rng(7)
    tables = [questions(f"r{i}", noisy(rng, 24, shift=-0.4 + 0.8 * (i == 0))) for i in range(24)]
    table = compare(*tables)
    assert len(table) == 276
    assert table["p_holm"].min() < 0.05


def test_a_row_is_best_only_where_it_differs_from_every_other() -> None:
    good, middle, bad = [1.0] * 20, [0.0] * 12 + [1.0] * 8, [0.0] * 20
    close = [1.0] * 19 + [0.0]
    tables = [questions(r, s, benchmark="clear") for r, s in (("A", good), ("B", middle), ("C", bad))]
    tables += [questions(r, s, benchmark="close") for r, s in (("A", close), ("B", bad), ("C", good))]
    found = best_rows(compare(*tables))
    assert found["clear"] == Standing("A", (), 2)
    assert found["clear"].best == "A"
    assert found["close"] == Standing("C", ("A",), 2)
    assert found["close"].best is None


def test_rows_that_tie_are_not_best() -> None:
    found = best_rows(compare(questions("A", [1.0] * 30), questions("B", [1.0] * 30), questions("C", [0.0] * 30)))
    assert found["b"] == Standing("A", ("B",), 2)


def test_a_row_that_was_not_compared_with_the_top_one_is_not_beaten_by_it() -> None:
    a, b = questions("A", [1.0] * 20), questions("B", [0.0] * 20)
    other = questions("C", [0.0] * 20, first=10)  # ten questions of A's and B's
    apart = questions("D", [0.0] * 20, first=25)  # five of C's, none of A's
    assert best_rows(compare(a, b, other, apart))["b"].rivals == ("D",)


# -- input -------------------------------------------------------------------------------------------------------------


def test_no_questions_make_an_empty_table() -> None:
    table = paired_comparisons(pd.DataFrame(columns=list(QUESTION_COLUMNS)))
    assert list(table.columns) == list(COLUMNS)
    assert best_rows(table) == {}


def test_questions_that_break_the_schema_are_an_error() -> None:
    table = questions("A", [1.0, 0.0])
    with pytest.raises(DataError, match="weight absent"):
        paired_comparisons(table.drop(columns="weight"))
    with pytest.raises(DataError, match=r"A, seed 0, b, question 'q00000'"):
        paired_comparisons(pd.concat([table, table]))
    with pytest.raises(DataError, match=r"finite scores .* question 'q00001'"):
        paired_comparisons(table.assign(score=[1.0, nan]))
