from math import isnan, sqrt

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals import combine_benchmarks, combine_seeds


def test_one_seed_keeps_its_own_error() -> None:
    estimate = combine_seeds([0.6], [0.05])
    assert (estimate.score, estimate.seeds) == (0.6, 1)
    assert estimate.stderr == pytest.approx(0.05)


def test_seeds_that_agree_do_not_make_the_problems_more_numerous() -> None:
    estimate = combine_seeds([0.6, 0.6, 0.6], [0.05, 0.05, 0.05])
    assert estimate.stderr == pytest.approx(0.05)


def test_without_error_over_problems_only_the_spread_of_the_seeds_remains() -> None:
    # mean 0.5, deviations ±0.1: s² = 0.02 / 1, s² / 2 = 0.01
    estimate = combine_seeds([0.4, 0.6], [0.0, 0.0])
    assert estimate.score == pytest.approx(0.5)
    assert estimate.stderr == pytest.approx(0.1)


def test_both_sources_add_in_squares() -> None:
    # problems: (0.03² + 0.05²) / 2 = 0.0017; seeds: 0.01
    assert combine_seeds([0.4, 0.6], [0.03, 0.05]).stderr == pytest.approx(sqrt(0.0117))


def test_problems_of_different_benchmarks_are_independent() -> None:
    # one seed, two benchmarks with errors 0.03 and 0.04: sqrt(0.0009 + 0.0016) / 2 = 0.025
    estimate = combine_benchmarks([[0.2], [0.6]], [[0.03], [0.04]])
    assert estimate.score == pytest.approx(0.4)
    assert estimate.stderr == pytest.approx(0.025)


def test_a_seed_that_is_good_at_one_benchmark_and_bad_at_another_does_not_spread_the_average() -> None:
    assert combine_benchmarks([[0.4, 0.6], [0.6, 0.4]], [[0.0, 0.0], [0.0, 0.0]]).stderr == pytest.approx(0.0)


def test_the_average_over_one_benchmark_is_that_benchmark() -> None:
    scores, errors = [0.4, 0.7, 0.6], [0.03, 0.05, 0.04]
    assert combine_benchmarks([scores], [errors]) == combine_seeds(scores, errors)


def test_an_unknown_error_stays_unknown() -> None:
    assert isnan(combine_seeds([1.0, 0.0], [float("nan"), float("nan")]).stderr)


@pytest.mark.parametrize(
    ("scores", "errors"),
    [([], []), ([[]], [[]]), ([[0.1], [0.1, 0.2]], [[0.1], [0.1, 0.1]]), ([[float("nan")]], [[0.1]])],
)
def test_what_cannot_be_averaged_is_an_error(scores: list[list[float]], errors: list[list[float]]) -> None:
    with pytest.raises(DataError):
        combine_benchmarks(scores, errors)
