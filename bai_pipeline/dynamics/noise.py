"""How much of a step's value is noise.

Detectors that are asked after every step need it as known after each one: `step_error`, `estimated_error`. Those that
read a finished run in windows take one number over all of it, `step_noise`; a few jumps hardly change it, but it must
not be used for a step of a running one, since it knows what came later.

The pseudo-residual of a step is its distance from the line between its neighbors, so that a trend does not enter it
(Gasser, Sroka & Jennen-Steinmetz 1986):

    e_i = y_i − (y_{i−1} + y_{i+1}) / 2          Var e_i = s_i² + (s_{i−1}² + s_{i+1}²) / 4
"""

from bisect import insort

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NORMAL_MEDIAN = 0.67449
"""Median of |x| of a standard normal x."""
_NORMAL_MEAN = 0.79788
"""Mean of |x| of a standard normal x."""
_DOF_PER_RESIDUAL = 0.45
"""Efficiency of mean |x| (0.88) times that of second differences (18/35): what a residual is worth."""
_EARLY = 8


def step_error(y: Floats, stderr: Floats) -> Floats:
    """Error of every step beside its standard error, as known after each step.

        τ_t² = max(0, median_{i<t} (e_i² / 0.455 − Var e_i) / 1.5)

    Prompts that differ between batches and updates that overshoot both make it. The median (the lower of the two in the
    middle) leaves single jumps out.
    """
    error = np.zeros(len(y))
    seen: list[float] = []
    for i, square in enumerate(_residuals(y) ** 2 / _NORMAL_MEDIAN**2 - _variances(stderr), start=2):
        insort(seen, float(square))
        error[i] = (max(0.0, seen[(len(seen) - 1) // 2]) / 1.5) ** 0.5
    return error


def estimated_error(y: Floats) -> tuple[Floats, Floats, Floats]:
    """Standard error of a step, where only the steps' values are known, as known after each step.

        σ_t = mean_{i<t} |e_i| / √1.5 / 0.798

    The start of a run is often its noisiest part: its error is the larger of σ_t and of σ over the first steps.

    Returns:
        Error of a step, error of the first step, degrees of freedom (0.45 per residual); infinite, infinite and 1 while
        there are fewer than 2 residuals.
    """
    absolute = np.abs(_residuals(y)) / 1.5**0.5 / _NORMAL_MEAN
    known = np.arange(1, len(absolute) + 1)
    mean = np.cumsum(absolute) / known
    early = np.where(known < _EARLY, mean, mean[min(_EARLY, len(mean)) - 1] if len(mean) else np.inf)
    error, first, dof = np.full(len(y), np.inf), np.full(len(y), np.inf), np.ones(len(y))
    error[2:], first[2:] = mean, np.maximum(mean, early)
    dof[2:] = np.maximum(1.0, _DOF_PER_RESIDUAL * known)
    error[2:3], first[2:3] = np.inf, np.inf
    return error, first, dof


def step_noise(values: Floats, scale: Floats | None = None) -> float:
    """Standard deviation of a step's value x around a slow course, from neighbors, in units of `scale` (None: 1).

        σ = 1.4826 median |x_{t+1} − x_t| / sqrt(scale_t² + scale_{t+1}²)

    A trend or a few jumps hardly change it (von Neumann 1941; made robust by the median). NaN below 3 values.
    """
    if len(values) < 3:
        return float("nan")
    scale = np.ones_like(values) if scale is None else scale
    return float(1.4826 * np.median(np.abs(np.diff(values)) / np.hypot(scale[1:], scale[:-1])))


def _residuals(y: Floats) -> Floats:
    return y[1:-1] - (y[:-2] + y[2:]) / 2


def _variances(stderr: Floats) -> Floats:
    square = stderr**2
    variance: Floats = square[1:-1] + (square[:-2] + square[2:]) / 4
    return variance
