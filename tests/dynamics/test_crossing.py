"""The test that may be looked at after every step."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.dynamics.crossing import (
    Excess,
    find_crossing,
    onset,
    smoothing_width,
    student_quantile,
    upper_bound,
)

values = st.lists(st.floats(-3, 3), min_size=2, max_size=40).map(np.array)


def excess(value: np.ndarray, error: float = 1.0, start: float = 0.0) -> Excess:
    n = len(value)
    return Excess(value, np.full(n, error), np.zeros(n), np.full(n, start), np.full(n, inf))


def test_quantiles_of_student_agree_with_tables() -> None:
    # Upper 2.5 % (z = 1.959964): tables give 2.776 (4), 2.228 (10), 2.000 (60); the approximation is good to 1 %.
    found = student_quantile(1.959964, np.array([4.0, 10.0, 60.0, inf]))
    assert found == pytest.approx([2.776, 2.228, 2.000, 1.960], rel=0.01)
    assert student_quantile(-1.5, np.array([7.0])) == -student_quantile(1.5, np.array([7.0]))


def test_all_that_is_spent_is_the_false_alarm_rate() -> None:
    # α_k is spent at 2^k steps and k windows; Σ 1 / (k (k + 1)) = 1 − 1 / (K + 1).
    spent = sum(2**k * k / (k * (k + 1) * 2**k * k) for k in range(1, 1000))
    assert spent == pytest.approx(1 - 1 / 1000)


def test_a_step_change_is_found_and_its_beginning_named() -> None:
    value = np.concatenate([np.full(10, -1.0), np.full(10, 1.0)])
    found = find_crossing(excess(value, 0.1), 0.05)
    assert found.step == 11, "two steps beyond the level, the smallest window"
    assert onset(value, found.step) == 10
    assert found.p_value < 1e-6


def test_a_single_step_beyond_the_level_is_no_crossing() -> None:
    value = np.full(20, -1.0)
    value[7] = 0.9
    assert find_crossing(excess(value, 1e-3), 0.05).step is None


@given(values, st.floats(0.01, 1), st.floats(0, 1))
def test_the_p_value_is_where_the_test_turns(value: np.ndarray, error: float, start: float) -> None:
    series = excess(value, error, start)
    p = find_crossing(series, 0.05).p_value
    if 1e-11 < p < 0.49:
        assert find_crossing(series, p * 1.01).step is not None
        assert find_crossing(series, p * 0.98).step is None
    assert (find_crossing(series, 0.05).step is not None) == (p <= 0.05)


@given(values, values, st.floats(0.01, 1))
def test_what_was_found_is_not_taken_back(first: np.ndarray, later: np.ndarray, error: float) -> None:
    before = find_crossing(excess(first, error), 0.05)
    after = find_crossing(excess(np.concatenate([first, later]), error), 0.05)
    assert after.p_value <= before.p_value * 1.01
    if before.step is not None:
        assert after.step == before.step


def test_the_upper_bound_is_that_of_the_highest_window() -> None:
    bound, p = upper_bound(excess(np.array([-5.0, -1.0, -3.0, -5.0]), 0.5), 0.05, 2)
    # The highest mean of two steps is (−1 − 3) / 2 = −2, its error 0.5 / √2.
    assert bound == pytest.approx(-2 + 1.6449 * 0.5 / 2**0.5, abs=1e-3)
    assert p < 1e-7


def test_windows_widen_with_noise_up_to_a_quarter_of_the_run() -> None:
    flat = np.zeros(80)
    assert smoothing_width(excess(flat, 0.01), 0.02) == 2
    assert smoothing_width(excess(flat, 0.06), 0.02) == 9
    assert smoothing_width(excess(flat, 1.0), 0.02) == 20
    assert smoothing_width(excess(flat[:1], 1.0), 0.02) == 1
