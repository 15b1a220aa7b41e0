"""Quantiles against published tables, tests against hand counts, error rates on noise."""

from math import atan, pi, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bai_pipeline.dynamics.standings import (
    Goal,
    Standing,
    holm,
    paired_p,
    shrunk,
    stand,
    t_quantile,
    t_two_sided,
    wilson,
)


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [
        # Abramowitz and Stegun 1964, table 26.10; NIST/SEMATECH e-Handbook, 1.3.6.7.2.
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (0.995, 5, 4.032),
        (0.999, 10, 4.144),
        (0.95, 30, 1.697),
        (0.975, 100, 1.984),
    ],
)
def test_students_quantiles_are_those_of_the_tables(p: float, df: int, t: float) -> None:
    assert t_quantile(p, df) == pytest.approx(t, abs=5e-4)


@given(st.floats(0, 50))
def test_students_tails_with_one_and_two_degrees_of_freedom_are_elementary(t: float) -> None:
    assert t_two_sided(t, 1) == pytest.approx(1 - 2 / pi * atan(t), abs=1e-12)
    assert t_two_sided(-t, 2) == pytest.approx(1 - t / sqrt(2 + t * t), abs=1e-12)


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_wilsons_interval_of_none_and_of_half() -> None:
    z = 1.959964
    assert wilson(0.0, 10, z) == pytest.approx((0.0, z * z / (10 + z * z)))  # 0.278
    assert wilson(0.5, 10, z) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_a_paired_p_is_students() -> None:
    assert paired_p(pd.Series([1.0, 2.0, 3.0]), "number") == pytest.approx(1 - sqrt(12) / sqrt(14))  # t = √12, df = 2


def test_shares_and_differences_that_are_all_the_same_get_the_sign_test() -> None:
    assert paired_p(pd.Series([0.2] * 4), "accuracy") == pytest.approx(2 / 2**4)
    assert paired_p(pd.Series([1.0, 1.0, 0.0, -1.0]), "share") == 1.0  # 2 against 1: 2 (1 + 3) / 8
    assert paired_p(pd.Series([1.0] * 6 + [0.0]), "share") == pytest.approx(2 / 2**6)
    assert paired_p(pd.Series([0.0, 0.0]), "number") == 1.0
    assert paired_p(pd.Series([5.0]), "number") == 1.0


def test_shrinkage_is_none_without_noise_and_whole_without_signal() -> None:
    levels = np.array([0.1, 0.5, 0.9])
    assert shrunk(np.stack([levels + luck for luck in (0.0, 0.4, -0.4)])) == pytest.approx(0.9)
    # Every alpha has the same mean over the three units.
    assert shrunk(np.array([[1.0, 0.0, 0.5], [0.0, 0.5, 1.0], [0.5, 1.0, 0.0]])) == pytest.approx(0.5)
    assert np.isnan(shrunk(np.ones((1, 5))))


Floats = NDArray[np.float64]


def noise(alphas: int, seeds: int, generator: np.random.Generator, levels: Floats | float = 0.0) -> Standing:
    """Normal values of equal variance; half of it is shared by the alphas of a seed."""
    grid = [f"{i / 20:g}" for i in range(alphas)]
    values = generator.standard_normal((seeds, alphas)) + generator.standard_normal((seeds, 1)) + levels
    table = pd.DataFrame(values, columns=grid).rename_axis("seed").reset_index()
    long = table.melt(id_vars="seed", var_name="alpha").assign(chain="", stderr=np.nan)
    return stand(Goal("score", "score", "", "number", long, {}), grid, 0.05)


def called_on_noise(runs: int) -> dict[tuple[int, int], tuple[float, float]]:
    """(alphas, seeds) → how often a best is resolved, and how often any alpha is called worse than the best."""
    generator = np.random.default_rng(5)
    found = {}
    for alphas, seeds in ((2, 3), (6, 3), (6, 6)):
        standings = [noise(alphas, seeds, generator) for _ in range(runs)]
        resolved = np.mean([not s.tied for s in standings])
        found[alphas, seeds] = (float(resolved), float(np.mean([len(s.tied) < alphas - 1 for s in standings])))
    return found


def test_noise_rarely_tells_alphas_apart() -> None:
    for rates in called_on_noise(60).values():
        assert max(rates) <= 0.05 + 3 * sqrt(0.05 * 0.95 / 60)


@pytest.mark.soak
def test_noise_tells_alphas_apart_in_at_most_five_percent_of_sweeps() -> None:
    for rates in called_on_noise(1000).values():
        assert max(rates) <= 0.05 + 2 * sqrt(0.05 * 0.95 / 1000)  # two standard errors of the measurement itself


@pytest.mark.soak
def test_the_shrunk_best_is_nearer_to_what_new_runs_give_than_the_best_itself() -> None:
    generator = np.random.default_rng(6)
    best, expected, truth = [], [], []
    for _ in range(1000):
        levels = 0.5 * generator.standard_normal(6)
        standing = noise(6, 3, generator, levels)
        grid = sorted(standing.order, key=float)
        luck = standing.runs.to_numpy().mean() - levels.mean()  # of the seeds, which all alphas share
        truth.append(levels[grid.index(standing.order[0])] + luck)
        best.append(standing.means[standing.order[0]])
        expected.append(standing.expected)
    errors = [np.mean(np.array(side) - truth) for side in (best, expected)]
    assert errors[0] > 0.2  # the winner's curse, in standard deviations of a run
    assert abs(errors[1]) < 0.5 * errors[0]
