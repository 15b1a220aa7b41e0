"""Whether a series rises above a level that is the same for all runs, such as half of all responses.

The excess of step t is x_t − level, from step 0 on; see `crossing` for what is tested and `noise` for errors.
"""

from dataclasses import dataclass

import numpy as np

from bai_pipeline.dynamics.crossing import (
    FEWEST_STEPS,
    Excess,
    Floats,
    find_crossing,
    onset,
    smoothing_width,
    upper_bound,
)
from bai_pipeline.dynamics.noise import estimated_error, step_error

_RESOLUTION = 0.1
"""Error of a smoothed value, as a share of the level."""


@dataclass(frozen=True)
class LevelTest:
    """A series and the level."""

    start: float
    """First value."""
    end: float
    """Mean of the last `smoothing_steps`."""
    highest: float
    """Largest mean of a window of `smoothing_steps`."""
    highest_bound: float
    """Upper bound of all of them."""
    onset_step: float | None
    """First step of the rise above the level, where there was one."""
    detected_step: float | None
    """First step after which it was sure."""
    above_p_value: float
    """Of "never above the level", over all looks."""
    below_p_value: float
    """Of "above it in some window of `smoothing_steps`"."""
    smoothing_steps: int
    looks: int

    @property
    def above(self) -> bool:
        """Whether the level was crossed, beyond what noise explains."""
        return self.detected_step is not None

    def below(self, false_alarms: float) -> bool:
        """Whether crossing it is excluded, and the run long enough to say so."""
        return not self.above and self.looks >= FEWEST_STEPS and self.below_p_value <= false_alarms


def level_test(step: Floats, value: Floats, stderr: Floats | None, *, level: float, alpha: float) -> LevelTest | None:
    """Whether `value` crossed `level`; None where there are fewer than 2 values.

    Args:
        step, value: (steps,), the value not NaN.
        stderr: (steps,); None to estimate it from the values.
        alpha: chance of a false alarm.
    """
    if len(value) < 2:
        return None
    y, none = value - level, np.zeros(len(value))
    if stderr is None:
        error, _, dof = estimated_error(y)
        excess = Excess(y, none, error, none, dof)
    else:
        excess = Excess(y, stderr, step_error(y, stderr), none, np.full(len(y), np.inf))
    found = find_crossing(excess, alpha)
    width = smoothing_width(excess, _RESOLUTION * level)
    bound, below_p = upper_bound(excess, alpha, width)
    mean = excess.window(width)[0] + level
    return LevelTest(
        start=float(value[0]),
        end=float(mean[-1]),
        highest=float(mean.max()),
        highest_bound=level + bound,
        onset_step=None if found.step is None else float(step[onset(y, found.step)]),
        detected_step=None if found.step is None else float(step[found.step]),
        above_p_value=found.p_value,
        below_p_value=below_p,
        smoothing_steps=width,
        looks=len(value),
    )
