"""Scores by length bucket, windows of steps, and the two parts of a change of the mean score."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.dynamics.buckets import (
    START_RESPONSES,
    BucketTable,
    bucket_scores,
    decompose,
    finite,
    score_change,
    step_windows,
)
from bai_pipeline.errors import DataError


def table(*rows: tuple[int, int, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["step", "length", "score"])


def test_a_bucket_holds_lengths_from_its_first_token_up_to_the_next_buckets() -> None:
    scores = bucket_scores(table((0, 99, 1.0), (0, 100, 2.0), (0, 199, 4.0), (0, 0, 3.0)), 100)
    assert scores.to_dict("records") == [
        {"bucket": 0, "first_token": 0, "step": 0, "n": 2, "mean": 2.0, "sem": 1.0},
        {"bucket": 1, "first_token": 100, "step": 0, "n": 2, "mean": 3.0, "sem": 1.0},
    ]


def test_a_bucket_with_one_response_has_no_standard_error_and_an_empty_one_no_line() -> None:
    scores = bucket_scores(table((0, 5, 1.0), (0, 25, 2.0), (0, 26, None)), 10)  # type: ignore[arg-type]
    assert scores["bucket"].tolist() == [0, 2]
    assert scores["n"].tolist() == [1, 1]
    assert scores["sem"].isna().all()


def test_windows_begin_at_the_first_step_of_the_table() -> None:
    scores = bucket_scores(table((1, 5, 1.0), (2, 5, 3.0), (3, 5, 5.0)), 10, window=2)
    assert scores[["step", "n", "mean"]].to_dict("records") == [
        {"step": 1, "n": 2, "mean": 2.0},
        {"step": 3, "n": 1, "mean": 5.0},
    ]


def test_runs_are_kept_apart_by_the_columns_named_and_pooled_otherwise() -> None:
    runs = table((0, 5, 1.0), (0, 5, 3.0)).assign(init=["alpha 0.5", "alpha 0.5"], seed=[0, 1])
    assert bucket_scores(runs, 10, by=["init", "seed"])["mean"].tolist() == [1.0, 3.0]
    assert bucket_scores(runs, 10, by=["init"])["mean"].tolist() == [2.0]


def test_a_table_without_scores_or_with_negative_lengths_is_an_error() -> None:
    with pytest.raises(DataError, match="it has no score"):
        bucket_scores(table((0, 5, 1.0)).drop(columns="score"), 10)
    with pytest.raises(DataError, match="got -1"):
        bucket_scores(table((0, -1, 1.0)), 10)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=400))
def test_windows_cover_every_step_once(responses: list[int]) -> None:
    windows = step_windows(responses)
    steps = [step for window in windows for step in range(window.start, window.stop)]
    assert steps == list(range(len(responses)))
    assert all(window.stop > window.start for window in windows)


def test_the_start_is_as_long_as_it_takes_to_know_it_and_at_most_a_tenth_of_the_run() -> None:
    assert step_windows([64] * 200)[0] == slice(0, START_RESPONSES // 64)
    assert step_windows([64] * 20)[0] == slice(0, 2)
    assert step_windows([4096] * 3000)[0] == slice(0, 1)
    assert len(step_windows([4096] * 3000)) < 25


buckets_of = st.lists(
    st.tuples(
        st.integers(0, 50), st.floats(-5, 5, allow_nan=False), st.integers(0, 50), st.floats(-5, 5, allow_nan=False)
    ),
    min_size=1,
    max_size=8,
).filter(lambda rows: sum(row[0] for row in rows) > 0 and sum(row[2] for row in rows) > 0)


@given(buckets_of)
def test_a_change_is_its_part_within_buckets_plus_its_part_between_them(
    rows: list[tuple[int, float, int, float]],
) -> None:
    n0, m0, n1, m1 = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    change = decompose(n0, np.where(n0 > 0, m0, np.nan), n1, np.where(n1 > 0, m1, np.nan))
    assert change.total == pytest.approx(np.average(m1, weights=n1) - np.average(m0, weights=n0), abs=1e-9)
    assert change.within + change.between == pytest.approx(change.total, abs=1e-9)


@given(buckets_of)
def test_turning_time_round_turns_both_parts(rows: list[tuple[int, float, int, float]]) -> None:
    n0, m0, n1, m1 = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    there, back = decompose(n0, m0, n1, m1), decompose(n1, m1, n0, m0)
    assert (back.within, back.between) == pytest.approx((-there.within, -there.between), abs=1e-9)


def test_the_mean_falls_while_every_bucket_rises() -> None:
    before = pd.DataFrame({"length": [10] * 2 + [150] * 8, "score": [0.0] * 2 + [1.0] * 8})
    after = pd.DataFrame({"length": [10] * 8 + [150] * 2, "score": [0.2] * 8 + [1.2] * 2})
    change = score_change(before, after, 100)
    assert change.within == pytest.approx(0.2)
    assert change.between == pytest.approx(-0.6)
    assert change.total == pytest.approx(-0.4)


def test_what_moves_into_an_empty_bucket_is_mass_and_no_change_of_its_score() -> None:
    before, after = (pd.DataFrame({"length": [length], "score": [score]}) for length, score in ((10, 0.0), (150, 1.0)))
    assert score_change(before, after, 100).within == 0.0
    assert score_change(before, after, 100).between == 1.0


def test_a_change_from_no_responses_is_unknown() -> None:
    nothing = pd.DataFrame({"length": [1], "score": [float("nan")]})
    with pytest.raises(DataError, match="got none"):
        score_change(nothing, nothing.assign(score=1.0), 100)


def test_a_table_of_windows_agrees_with_the_scores_of_each_bucket() -> None:
    rng = np.random.default_rng(0)
    responses = pd.DataFrame(
        {"step": np.repeat([3, 4, 7], 100), "length": rng.integers(0, 250, 300), "score": rng.normal(size=300)}
    )
    got = BucketTable.of(responses, [slice(0, 2), slice(2, 3)], [3, 4, 7], 100)
    for window, steps in enumerate(([3, 4], [7])):
        part = responses[responses["step"].isin(steps)]
        expected = bucket_scores(part, 100, window=10)
        assert got.count[window].tolist() == expected["n"].tolist()
        assert got.mean[window] == pytest.approx(expected["mean"].to_numpy())
        errors = got.sd[window] / np.sqrt(got.count[window])
        assert errors[got.count[window] >= 30] == pytest.approx(expected["sem"][expected["n"] >= 30].to_numpy())
        assert got.window_sd[window] == pytest.approx(part["score"].std())
    assert got.first_token.tolist() == [0.0, 100.0, 200.0]


def test_evidence_has_none_for_what_is_not_a_number() -> None:
    assert finite({"a": float("nan"), "b": float("inf"), "c": 1, "d": "x", "e": None}) == {
        "a": None,
        "b": None,
        "c": 1,
        "d": "x",
        "e": None,
    }
