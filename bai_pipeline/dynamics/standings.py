"""Who is ahead: alphas compared on one number per run, and how far that may be chance.

A replicate is a pair (chain, seed): a chain is one base, SFT and reward model, a seed one PPO run from them. Runs of a
chain share its luck, so the unit of every error is the chain where there are at least two, its value the mean over its
seeds; with one chain it is the seed, and what another chain would give is not in the error.

With n units of values x, mean m and standard deviation s:

    band:         m ± t s / √n                      Student's t with n − 1 degrees of freedom
                  of benchmarks s² / n + mean e²    in place of s² / n: e is a score's error by the choice of questions
                  of shares, Wilson's score interval (Wilson 1927) with n units
    p of a pair:  Student's t of the units' differences between two alphas with the same chain and seed
                  of shares, the exact sign test of the units that differ
    p_holm:       corrected for all pairs of alphas (Holm 1979)

All pairs, and not only those of the best: the best is chosen by the same data. On noise, Holm's correction over the
best's own pairs calls some alpha worse in 8 to 12 % of sweeps of 6 to 11 alphas, over all pairs in at most 5 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import atan2, comb, cos, isnan, nan, pi, sin, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
import pandas as pd

Kind = Literal["number", "log_ratio", "accuracy", "benchmark", "share"]
"""Accuracies and benchmarks are shares of questions, and bands end at 0 and 1; `share` is one of runs."""


@dataclass(frozen=True)
class Goal:
    """What alphas are compared on."""

    name: str
    what: str
    """The goal in words, such as "mean score at the end"."""
    unit: str
    kind: Kind
    values: pd.DataFrame
    """alpha, chain, seed, value, stderr (NaN but for benchmarks): one line per run, of the alphas that are compared."""
    left_out: Mapping[str, str]
    """Alphas that cannot be compared, and why."""


@dataclass(frozen=True)
class Standing:
    """The alphas of a goal in order of their means."""

    goal: Goal
    order: tuple[str, ...]
    """From the highest mean to the lowest; equal ones as in the grid."""
    means: Mapping[str, float]
    bands: Mapping[str, tuple[float, float]]
    """In the scale of `values`; NaN where one unit is all there is."""
    p_holm: Mapping[frozenset[str], float]
    level: float
    units: int
    clustered: bool
    """The units are chains."""
    expected: float
    """Of the best on new units, see `shrunk`; NaN where it cannot be estimated."""
    runs: pd.DataFrame
    """Values by (chain, seed) and alpha."""

    @property
    def best(self) -> str | None:
        return self.order[0] if self.order else None

    @property
    def tied(self) -> tuple[str, ...]:
        """Alphas that are not resolved from the best."""
        return tuple(a for a in self.order[1:] if not self.better(self.order[0], a))

    def better(self, one: str, other: str) -> bool:
        """Over the runs that both have, which may be fewer than those of their means."""
        p = self.p_holm[frozenset((one, other))]
        return p <= self.level and bool(_differences(self.runs, one, other, self.clustered).mean() > 0)

    def units_needed(self, one: str, other: str) -> int | None:
        """Units with which a difference of the size and noise seen would be resolved; None: cannot be said.

        The least n with |d| √n / s > t at level / (2 × the alphas tied with the best), the pairs that Holm's correction
        has left when the others are resolved. It is a lower bound: the difference of a chosen best is too large.
        """
        differences = _differences(self.runs, one, other, self.clustered)
        if self.goal.kind == "share" or len(differences) < 2 or not differences.std(ddof=1) > 0:
            return None
        ratio = abs(differences.mean()) / differences.std(ddof=1)
        tail = self.level / 2 / max(1, len(self.tied))
        needed = (n for n in range(2, 1000) if ratio * sqrt(n) > t_quantile(1 - tail, n - 1))
        return max(n, len(differences) + 1) if (n := next(needed, 0)) else None


def stand(goal: Goal, alphas: Sequence[str], level: float) -> Standing:
    """Order the alphas of a goal.

    Args:
        alphas: the grid, in order.
        level: chance, at most, that any two alphas are told apart where none differ; bands hold 1 − level.
    """
    clustered = goal.values["chain"].nunique() > 1
    units = {str(alpha): _units(group, clustered) for alpha, group in goal.values.groupby("alpha")}
    compared = [alpha for alpha in alphas if alpha in units]
    means = {alpha: float(units[alpha]["value"].mean()) for alpha in compared}
    pairs = list(combinations(compared, 2))
    wide = goal.values.pivot(index=["chain", "seed"], columns="alpha", values="value")
    corrected = holm([paired_p(_differences(wide, a, b, clustered), goal.kind) for a, b in pairs])
    order = tuple(sorted(compared, key=lambda alpha: -means[alpha]))
    shared = pd.DataFrame({alpha: units[alpha]["value"] for alpha in compared}).dropna()
    return Standing(
        goal=goal,
        order=order,
        means=means,
        bands={alpha: band(units[alpha], goal.kind, level) for alpha in compared},
        p_holm={frozenset(pair): p for pair, p in zip(pairs, corrected, strict=True)},
        level=level,
        units=len(units[order[0]]) if order else 0,
        clustered=clustered,
        expected=shrunk(shared.to_numpy(dtype=np.float64)),
        runs=wide,
    )


def band(units: pd.DataFrame, kind: Kind, level: float) -> tuple[float, float]:
    """Interval of a mean over units (value, stderr) that holds 1 − level."""
    values = units["value"].to_numpy(dtype=np.float64)
    n, mean = len(values), float(values.mean())
    z = NormalDist().inv_cdf(1 - level / 2)
    if kind == "share":
        return wilson(mean, n, z)
    questions = float((units["stderr"] ** 2).mean(skipna=False)) if kind == "benchmark" else 0.0
    if n == 1:
        half = z * sqrt(questions) if kind == "benchmark" else nan
    else:
        half = t_quantile(1 - level / 2, n - 1) * sqrt(float(values.var(ddof=1)) / n + questions)
    low, high = mean - half, mean + half
    if kind in ("accuracy", "benchmark") and not isnan(half):
        return max(0.0, low), min(1.0, high)
    return low, high


def paired_p(differences: "pd.Series[float]", kind: Kind) -> float:
    """Two-sided p of no difference; 1 below two units.

    Differences that are all the same have no spread to compare with: p is then the sign test's, as for shares.
    """
    n = len(differences)
    if n < 2:
        return 1.0
    mean, sd = float(differences.mean()), float(differences.std(ddof=1))
    if kind == "share" or not sd > 1e-12 * abs(mean):
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        tail = sum(comb(better + worse, k) for k in range(min(better, worse) + 1))
        return float(min(1.0, 2 * tail / 2 ** (better + worse)))
    return t_two_sided(mean / (sd / sqrt(n)), n - 1)


def shrunk(values: np.ndarray) -> float:
    """The best mean, drawn towards the mean of all: the highest of k noisy means is too high (winner's curse).

        m + max(0, 1 − E / V) (m_best − m)

    V is the variance of the k means, E that of a mean's noise: of the units' deviations from alpha's mean and the
    unit's own (two-way analysis of variance; the factor is that of James and Stein 1961 by the method of moments). What
    a unit shares between alphas favors none, and is no noise.

    Args:
        values: (n, k), one column per alpha.

    Returns:
        NaN below 2 units or 3 alphas.
    """
    n, k = values.shape
    if n < 2 or k < 3:
        return nan
    means = values.mean(axis=0)
    residuals = values - values.mean(axis=1, keepdims=True) - means + means.mean()
    noise = float((residuals**2).sum()) / ((n - 1) * (k - 1)) / n
    spread = float(means.var(ddof=1))
    kept = max(0.0, 1 - noise / spread) if spread > 0 else 0.0
    return float(means.mean() + kept * (means.max() - means.mean()))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m times m − i + 1, then made monotone, at most 1."""
    ranks = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p)[ranks] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[ranks] = stepped
    return [float(value) for value in adjusted]


def wilson(share: float, n: int, z: float) -> tuple[float, float]:
    """(share + z²/2n ± z √(share (1 − share)/n + z²/4n²)) / (1 + z²/n), Wilson 1927."""
    center, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def t_two_sided(t: float, df: int) -> float:
    """P(|T| > |t|) of Student's t with a whole number of degrees of freedom, a finite sum.

    With θ = atan(t / √df) (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4), 1 − P is

        df odd:   2/π (θ + sin θ (cos θ + 2/3 cos³ θ + … + 2·4…(df−3) / 3·5…(df−2) cos^(df−2) θ)),  2θ/π at df = 1
        df even:  sin θ (1 + 1/2 cos² θ + … + 1·3…(df−3) / 2·4…(df−2) cos^(df−2) θ)
    """
    theta = atan2(abs(t), sqrt(df))
    cosine, odd = cos(theta), df % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, df - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    inside = 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total
    return min(1.0, max(0.0, 1 - inside))


def t_quantile(p: float, df: int) -> float:
    """t with P(T ≤ t) = p, for p in [0.5, 1), by bisection of `t_two_sided`."""
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 2 * (1 - p):
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_two_sided(middle, df) > 2 * (1 - p) else (low, middle)
    return high


def _units(runs: pd.DataFrame, clustered: bool) -> pd.DataFrame:
    """value and stderr of each unit of one alpha; questions are the same for all seeds, so e² is averaged."""
    if not clustered:
        return runs.set_index("seed")[["value", "stderr"]].sort_index()
    groups = runs.assign(square=runs["stderr"] ** 2).groupby("chain")
    return pd.DataFrame({"value": groups["value"].mean(), "stderr": groups["square"].mean() ** 0.5})


def _differences(runs: pd.DataFrame, one: str, other: str, clustered: bool) -> "pd.Series[float]":
    """one − other for each unit, over the chains and seeds that both ran."""
    found = (runs[one] - runs[other]).dropna()
    return found.groupby("chain").mean() if clustered else found
