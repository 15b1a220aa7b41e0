from math import isnan, sqrt

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.report.bucket_curves import BUCKETS, SMALLEST, bucket_curves, drawn_buckets, window_steps


def responses(*rows: tuple[str, int, int, int, list[float]]) -> pd.DataFrame:
    """(init, seed, step, length, scores)."""
    return pd.DataFrame(
        [(init, seed, step, length, score) for init, seed, step, length, scores in rows for score in scores],
        columns=["init", "seed", "step", "length", "score"],
    )


def test_a_point_is_the_mean_over_all_responses_with_the_error_between_seeds() -> None:
    # seeds 0 and 1 with 8 responses each, means 0 and 2: mean 1, error sqrt(2/1 (1/4 + 1/4)) = 1, as that of two means
    line = bucket_curves(responses(("a", 0, 0, 5, [0.0] * 8), ("a", 1, 0, 5, [2.0] * 8)), 10, 1).iloc[0]
    assert line[["n", "seeds", "mean", "low", "high"]].tolist() == [16, 2, 1.0, 0.0, 2.0]


def test_a_seed_with_more_responses_weighs_more() -> None:
    # 4 responses of mean 0 and 12 of mean 4: mean 3; error² = 2 ((1/4 · 3)² + (3/4 · 1)²) = 2.25
    line = bucket_curves(responses(("a", 0, 0, 5, [0.0] * 4), ("a", 1, 0, 5, [4.0] * 12)), 10, 1).iloc[0]
    assert (line["mean"], line["high"]) == (3.0, 4.5)


def test_with_one_seed_the_error_is_that_of_the_responses() -> None:
    # scores 0 and 2, four of each: variance 8/7, error sqrt(8/7 / 8) = sqrt(1/7)
    line = bucket_curves(responses(("a", 0, 0, 5, [0.0, 2.0] * 4)), 10, 1).iloc[0]
    assert line["high"] - line["mean"] == pytest.approx(sqrt(1 / 7))


def test_a_point_of_one_seed_among_several_has_no_band() -> None:
    table = bucket_curves(responses(("a", 0, 0, 5, [0.0] * 9), ("a", 1, 0, 15, [1.0, 2.0] * 5)), 10, 1)
    assert table["low"].map(isnan).all()


def test_points_of_few_responses_are_told_and_not_drawn() -> None:
    table = bucket_curves(responses(("a", 0, 0, 5, [0.0] * SMALLEST), ("a", 0, 1, 5, [0.0] * (SMALLEST - 1))), 10, 1)
    assert table["drawn"].tolist() == [True, False]


def test_of_many_buckets_evenly_spaced_ones_are_drawn() -> None:
    table = bucket_curves(responses(*(("a", 0, 0, 10 * i, [0.0] * SMALLEST) for i in range(23))), 10, 1)
    assert drawn_buckets(table) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]
    assert len(drawn_buckets(table)) == BUCKETS


@pytest.mark.parametrize(
    ("steps", "batch", "window"),
    [
        (20, 480, 1),  # each step has enough
        (20, 64, 2),  # 6.4 responses a bucket and step: eight steps would be wanted, ten windows are kept
        (200, 120, 5),  # 12 a bucket and step: four steps for 48, five for at most 40 windows
        (1600, 480, 40),
    ],
)
def test_windows_are_as_wide_as_noise_asks_and_the_run_allows(steps: int, batch: int, window: int) -> None:
    step = np.repeat(np.arange(steps), batch)
    table = pd.DataFrame({"init": "a", "step": step, "length": np.arange(len(step)) % 10 * 10})
    assert window_steps(table, 10) == window
