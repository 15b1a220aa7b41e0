from math import isnan, nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.errors import DataError
from bai_pipeline.evals.weighted import influences, question_scores, weighted_mean

shares = st.floats(0, 1)
weights = st.floats(0.01, 100)
questions = st.lists(st.tuples(shares, weights), min_size=2, max_size=30)


def test_with_equal_weights_the_error_is_the_sample_deviation_over_the_root_of_n() -> None:
    # (1, 1, 1, 0): mean 3/4, squared deviations 3/16 + 9/16 = 3/4, over n - 1 = 3: 1/4, over n = 4: 1/16
    assert weighted_mean([1, 1, 1, 0], [1, 1, 1, 1]) == pytest.approx((0.75, 0.25))


def test_weights_enter_mean_and_error() -> None:
    # m = 3/4; u = 2 * 3 * 1/4 / 4 = 3/8 and 2 * 1 * (-3/4) / 4 = -3/8; se² = (9/64 + 9/64) / (2 * 1)
    assert weighted_mean([1.0, 0.0], [3.0, 1.0]) == pytest.approx((0.75, 0.375))
    assert influences([1.0, 0.0], [3.0, 1.0]) == pytest.approx([0.375, -0.375])


def test_one_question_has_no_known_error() -> None:
    mean, stderr = weighted_mean([0.5], [2.0])
    assert mean == 0.5
    assert isnan(stderr)


def test_a_question_without_weight_does_not_move_the_mean() -> None:
    assert weighted_mean([1.0, 0.0, 1.0], [1.0, 1.0, 0.0])[0] == 0.5
    assert influences([1.0, 0.0, 1.0], [1.0, 1.0, 0.0])[2] == 0.0


@given(questions)
def test_influences_sum_to_zero_and_do_not_know_the_unit_of_the_weights(rows: list[tuple[float, float]]) -> None:
    x, w = (list(column) for column in zip(*rows, strict=True))
    assert influences(x, w).sum() == pytest.approx(0.0, abs=1e-9)
    assert influences(x, [4 * value for value in w]) == pytest.approx(influences(x, w), abs=1e-9)
    assert weighted_mean(x, [1.0] * len(x))[1] == pytest.approx(float(np.std(x, ddof=1)) / len(x) ** 0.5, abs=1e-12)


def test_the_error_holds_where_weights_depend_on_the_verdicts() -> None:
    """Judged games: verdicts from 0 to 1 in steps of 1/4, and an outright one counts three times."""
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(2000):
        x = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], p=[0.3, 0.2, 0.1, 0.1, 0.3], size=100)
        estimates.append(weighted_mean(x, np.where((x == 0) | (x == 1), 3.0, 1.0)))
    means, errors = np.array(estimates).T
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.05)


@pytest.mark.parametrize(
    ("x", "w"),
    [([], []), ([1.0], [1.0, 1.0]), ([nan], [1.0]), ([1.0], [nan]), ([1.0, 0.0], [1.0, -1.0]), ([1.0], [0.0])],
)
def test_what_has_no_mean_is_an_error(x: list[float], w: list[float]) -> None:
    with pytest.raises(DataError):
        weighted_mean(x, w)


def samples(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["id", "repeat", "score", "weight"]).assign(response="")


def test_repeats_are_averaged_question_by_question() -> None:
    table = question_scores(samples(("b", 0, 1.0, 1.0), ("a", 0, 0.0, 2.0), ("b", 1, 0.0, 1.0), ("a", 1, 0.0, 2.0)))
    assert table.to_dict("list") == {"id": ["b", "a"], "score": [0.5, 0.0], "weight": [1.0, 2.0]}


def test_repeats_of_different_weight_leave_the_benchmarks_mean_that_of_all_repeats() -> None:
    rows = [("a", 0, 1.0, 3.0), ("a", 1, 0.0, 1.0), ("b", 0, 0.5, 1.0), ("b", 1, 0.0, 3.0)]
    table = question_scores(samples(*rows))
    assert list(table["score"]) == [0.75, 0.125]  # 3/4 and 0.5/4
    assert weighted_mean(table["score"].to_numpy(), table["weight"].to_numpy())[0] == pytest.approx(3.5 / 8)


def test_a_question_whose_repeats_have_no_weight_keeps_its_score() -> None:
    assert question_scores(samples(("a", 0, 1.0, 0.0), ("a", 1, 0.0, 0.0))).to_dict("list") == {
        "id": ["a"],
        "score": [0.5],
        "weight": [0.0],
    }


def test_no_samples_are_no_questions() -> None:
    table = question_scores(samples())
    assert table.empty
    assert list(table.columns) == ["id", "score", "weight"]


def test_samples_that_are_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="weight absent"):
        question_scores(samples().drop(columns="weight"))
    with pytest.raises(DataError, match="question 'a', repeat 0"):
        question_scores(samples(("a", 0, 1.0, 1.0), ("a", 0, 1.0, 1.0)))
    with pytest.raises(DataError, match="got score nan at position 1"):
        question_scores(samples(("a", 0, 1.0, 1.0), ("b", 0, nan, 1.0)))
