"""How much of its own start a positive series has lost.

With x_t the series, x_0 its first value (step 0 is sampled before any update), and D the loss that matters:

    g_t = log(1 − D) + log x_0 − log x_t          the excess of the loss at step t; positive: more than D is lost
    loss of a window = 1 − exp(mean log x) / x_0

Logarithms make the loss independent of the unit. Errors are those of `noise`, relative to the value; see `crossing` for
what is then tested.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.crossing import (
    FEWEST_STEPS,
    Crossing,
    Excess,
    Floats,
    find_crossing,
    onset,
    smoothing_width,
    student_quantile,
    upper_bound,
)
from bai_pipeline.dynamics.noise import estimated_error, step_error

_LEAST = 1e-6
"""Least value and least relative error, as shares: a zero has no logarithm, and equal responses no spread."""
_RESOLUTION = 0.1
"""Error of a smoothed value, as a share of the loss that matters (in logarithms)."""


@dataclass(frozen=True)
class RelativeLoss:
    """The loss of a series; losses and bounds are shares of the start, negative where it grew."""

    start: float
    start_step: float
    start_error: float
    """Relative standard error of the start."""
    end: float
    """Mean of the last `smoothing_steps`."""
    end_ratio: float
    end_ratio_low: float
    end_ratio_high: float
    """Two-sided band of level 1 − `false_alarms`."""
    depth: float
    """Largest loss of a window of `smoothing_steps`."""
    depth_low: float
    """Lower bound of the largest loss at any time, over all looks."""
    depth_high: float
    """Upper bound of the loss of every window of `smoothing_steps`."""
    trough: float
    trough_step: float
    recovery: str
    """"none", "partial" or "recovered"; "none" also where there was nothing to recover from."""
    onset_step: float | None
    """First step of the fall, where there was one."""
    detected_step: float | None
    """First step after which the fall was sure."""
    lost_p_value: float
    """Of "no more than D was lost"."""
    kept_p_value: float
    """Of "more than D was lost"."""
    smoothing_steps: int
    looks: int
    """Steps tested."""
    relative_noise: float
    """Relative standard error of a step, median over the run."""
    noise_known: bool
    """Whether errors come from the responses and not from the steps themselves."""

    @property
    def lost(self) -> bool:
        """Whether more than D was lost, beyond what noise explains."""
        return self.detected_step is not None

    @property
    def kept(self) -> bool:
        """Whether a loss of more than D is excluded, and the run long enough to say so."""
        return not self.lost and self.looks + 1 >= FEWEST_STEPS


def relative_loss(
    step: Floats, value: Floats, stderr: Floats | None, dof: float, *, loss: float, alpha: float
) -> RelativeLoss | None:
    """What a series lost; None where there is no second value, or the first is not positive.

    Args:
        step, value: (steps,), the value not NaN.
        stderr: (steps,), of each value; None to estimate it from the values.
        dof: degrees of freedom of the first value's stderr.
        loss: D.
        alpha: chance of a false alarm.
    """
    if len(value) < 2 or not value[0] > 0:
        return None
    y = np.log(np.maximum(value / value[0], _LEAST))
    level = float(np.log(max(1 - loss, _LEAST)))
    excess = excess_of(y, None if stderr is None else stderr / np.maximum(value, _LEAST * value[0]), dof, level)
    found = find_crossing(excess, alpha)
    width = smoothing_width(excess, -_RESOLUTION * level)
    high, kept_p = upper_bound(excess, alpha, width)
    mean, square = excess.window(width)
    error = np.sqrt(square + excess.step_error[-1] ** 2 / width)
    ratio = np.exp(level - mean)  # of windows
    trough = int(ratio.argmin())
    z = float(student_quantile(NormalDist().inv_cdf(1 - alpha / 2), excess.dof[-1:])[0])
    band = z * float(np.hypot(error[-1], excess.start_error[-1]))
    began = None
    if found.step is not None:
        began = onset(excess.value + np.log(1 - loss / 2) - level, found.step)
    return RelativeLoss(
        start=float(value[0]),
        start_step=float(step[0]),
        start_error=float(excess.start_error[-1]),
        end=float(value[0] * ratio[-1]),
        end_ratio=float(ratio[-1]),
        end_ratio_low=float(ratio[-1] * np.exp(-band)),
        end_ratio_high=float(ratio[-1] * np.exp(band)),
        depth=float(1 - ratio[trough]),
        depth_low=float(1 - np.exp(level - found.margin)),
        depth_high=float(1 - np.exp(level - high)),
        trough=float(value[0] * ratio[trough]),
        trough_step=float(step[trough + width]),
        recovery=_recovery(found, mean, error, trough, width, z),
        onset_step=None if began is None else float(step[began + 1]),
        detected_step=None if found.step is None else float(step[found.step + 1]),
        lost_p_value=found.p_value,
        kept_p_value=kept_p,
        smoothing_steps=width,
        looks=len(excess),
        relative_noise=float(np.hypot(np.median(excess.stderr), excess.step_error[-1])),
        noise_known=stderr is not None,
    )


def excess_of(y: Floats, stderr: Floats | None, dof: float, level: float) -> Excess:
    """g of every step after the first; `y` is log(x_t / x_0), `stderr` relative."""
    if stderr is None:
        error, first, dofs = estimated_error(y)
        return Excess(level - y[1:], np.zeros(len(y) - 1), error[1:], first[1:], dofs[1:])
    stderr = np.maximum(stderr, _LEAST)
    extra = step_error(y, stderr)[1:]
    return Excess(level - y[1:], stderr[1:], extra, np.hypot(stderr[0], extra), np.full(len(y) - 1, max(dof, 1.0)))


def _recovery(found: Crossing, mean: Floats, error: Floats, trough: int, width: int, z: float) -> str:
    """Whether the last window is above the lowest one by more than noise, and above the level."""
    rise = mean[trough] - mean[-1]
    if found.step is None or trough + width > len(mean) - 1:
        return "none"
    if not rise > z * float(np.hypot(error[trough], error[-1])):
        return "none"
    return "recovered" if mean[-1] <= 0 else "partial"


def series(steps: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """The steps where `column` is known, and its values."""
    known = steps.loc[steps[column].notna(), ["step", column]]
    return known["step"].to_numpy(dtype=np.float64), known[column].to_numpy(dtype=np.float64)
