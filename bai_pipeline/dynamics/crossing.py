"""Whether a noisy series crosses a level and stays beyond it: a test that may be looked at after every step.

A series' excess g_t is how far step t lies beyond the level (positive: beyond). With t = 1, 2, … the steps tested, k =
⌊log2 t⌋, and windows of w = 2, 4, …, 2^k steps that end at step t, the level is crossed where, for some t and w,

    mean(g_{t−w+1}, …, g_t)  >  q(α_0) e_0 + q(α_k) e_{t,w}        α_k = (α − α_0) / (k (k + 1) · 2^k · k)

e_{t,w} is the standard error of the window's mean, e_0 that of what all windows are compared with (the run's start; 0
for a fixed level, and then α_0 = 0, else α_0 = α / 2), q(α) the upper quantile of the normal distribution, or of
Student's where errors are themselves estimated. Summed over all k, their 2^k steps and k windows, the α_k are α − α_0:
by the union bound the chance of ever crossing by noise is at most α, however long the run, whenever it is looked at,
and however its steps depend on each other (alpha spending, Lan & DeMets 1983; over epochs of doubling length as in the
stitching of Howard, Ramdas, McAuliffe & Sekhon 2021, arXiv:1810.08240). What is said of step t depends on no later one.

That the level was never crossed is the opposite statement, and holds if every window of `width` steps lies below it by
q(α) errors. That is an intersection-union test (Berger 1982): it needs no correction for the number of windows. It is
made once, at the end of what is known.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NORMAL = NormalDist()
_SURE = 1e-12
FEWEST_STEPS = 6
"""Steps of a run below which nothing is said to be in order."""


@dataclass(frozen=True)
class Excess:
    """How far each tested step lies beyond the level, and how well that is known; all (steps,)."""

    value: Floats
    stderr: Floats
    """Error of each step by itself, beside `step_error`."""
    step_error: Floats
    """Error that every step has in the same size, as known at each step."""
    start_error: Floats
    """e_0, as known at each step."""
    dof: Floats
    """Degrees of freedom of the errors, as known at each step; infinite where they are not estimated."""

    def __len__(self) -> int:
        return len(self.value)

    def window(self, width: int) -> tuple[Floats, Floats]:
        """Mean of the windows that end at steps `width` to the last, and its squared error without `step_error`."""
        total = np.concatenate([np.zeros((2, 1)), np.cumsum([self.value, self.stderr**2], axis=1)], axis=1)
        value, square = total[:, width:] - total[:, :-width]
        return value / width, np.maximum(square, 0.0) / width**2


@dataclass(frozen=True)
class Crossing:
    """What the test at every step found."""

    p_value: float
    """The smallest α at which the level is crossed; 1 where it is at none."""
    step: int | None
    """Position of the first step after which it is sure, at the α asked for."""
    margin: float
    """Lower bound of the largest excess of a window's mean; above 0 if the level is crossed."""


def student_quantile(z: float, dof: Floats) -> Floats:
    """Student's quantile with the tail area of the normal's `z`, by Wallace's approximation (1959), solved for t.

    z = (8ν + 1) / (8ν + 3) · √(ν log(1 + t² / ν))
    """
    finite = np.minimum(dof, 1e9)
    with np.errstate(over="ignore"):
        t: Floats = np.sqrt(finite * np.expm1((z * (8 * finite + 3) / (8 * finite + 1)) ** 2 / finite))
    return t if z > 0 else -t


def find_crossing(excess: Excess, alpha: float) -> Crossing:
    """The test of the module's docstring at every step."""
    margin, step = _margin(excess, alpha)
    low, high = np.log(_SURE), np.log(0.5)
    if _margin(excess, 0.5)[0] <= 0:
        return Crossing(1.0, None, margin)
    if _margin(excess, _SURE)[0] > 0:
        return Crossing(_SURE, step, margin)
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if _margin(excess, float(np.exp(middle)))[0] > 0 else (middle, high)
    return Crossing(float(np.exp(high)), step, margin)


def upper_bound(excess: Excess, alpha: float, width: int) -> tuple[float, float]:
    """Upper bound of the excess of every window of `width` steps, and the p-value of "none is beyond the level"."""
    mean, square = excess.window(width)
    total = np.sqrt(square + excess.step_error[-1] ** 2 / width + excess.start_error[-1] ** 2)
    bound = mean + float(student_quantile(-_NORMAL.inv_cdf(alpha), excess.dof[-1:])[0]) * total
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(total > 0, -mean / total, np.where(mean < 0, np.inf, -np.inf))
    return float(bound.max()), _NORMAL.cdf(-_normal_quantile(float(t.min()), float(excess.dof[-1])))


def smoothing_width(excess: Excess, resolution: float) -> int:
    """Steps to average so that the error of a mean is at most `resolution`; from 2 to a quarter of the run."""
    if len(excess) < 2:
        return 1
    error = float(np.hypot(np.median(excess.stderr), excess.step_error[-1]))
    wanted = np.ceil((error / resolution) ** 2) if resolution > 0 else np.inf
    return int(min(max(2.0, wanted), max(2, len(excess) // 4)))


def onset(excess: Floats, found: int) -> int:
    """Where a crossing that is sure at position `found` began: after the last zero of Page's cumulative sum (1954)."""
    total = np.concatenate([[0.0], np.cumsum(excess[: found + 1])])
    return int(len(total) - 1 - np.argmin(total[::-1])) if total[-1] > total.min() else found


def _margin(excess: Excess, alpha: float) -> tuple[float, int | None]:
    """Largest lower bound of a window's mean, and the position of the first that is above 0."""
    length, best, first = len(excess), -np.inf, None
    shared = bool((excess.start_error > 0).any())
    spent = alpha / 2 if shared else 0.0
    common = (
        student_quantile(-_NORMAL.inv_cdf(spent), excess.dof) * excess.start_error if shared else excess.start_error
    )
    for k in range(1, length.bit_length()):
        z = -_NORMAL.inv_cdf((alpha - spent) / (k * (k + 1) * 2**k * k))
        ends = np.arange(2**k - 1, min(2 ** (k + 1) - 1, length))
        quantile = student_quantile(z, excess.dof[ends])
        for j in range(1, k + 1):
            mean, square = (part[ends - (2**j - 1)] for part in excess.window(2**j))
            bound = mean - common[ends] - quantile * np.sqrt(square + excess.step_error[ends] ** 2 / 2**j)
            best = max(best, float(bound.max()))
            over = np.flatnonzero(bound > 0)
            if len(over) and (first is None or ends[over[0]] < first):
                first = int(ends[over[0]])
    return best, first


def _normal_quantile(t: float, dof: float) -> float:
    """The inverse of `student_quantile`."""
    if np.isinf(t) or np.isinf(dof):
        return t
    return float(np.sign(t) * (8 * dof + 1) / (8 * dof + 3) * np.sqrt(dof * np.log1p(t**2 / dof)))
