"""Truncation: so many responses end at the length limit that lengths and scores are those of the limit.

With p_t the share of step t's responses that were cut, and b = `truncated_share`:

    truncating:     for some window of 2, 4, 8, … steps the mean of p_t is above b, beyond noise
    within_limit:   it did not, and for every window of W steps that mean is below b, beyond noise

The variance of p_t at the level is b (1 − b) / n, n the prompts of a step; where they are not known, noise is taken
from how neighboring steps differ. What "beyond noise" is, is in `crossing`.
"""

from dataclasses import asdict

import numpy as np

from bai_pipeline.dynamics.fixed_level import level_test
from bai_pipeline.dynamics.length import with_length_errors
from bai_pipeline.dynamics.relative_loss import series
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "truncation"


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """truncating or within_limit.

    Confidence: of truncating, one minus the p-value of "the share was never above b", over all looks; of within_limit,
    one minus that of "it was in some window of W steps".
    """
    if not run.has("truncated_share"):
        return undetermined(DETECTOR, "The share of truncated responses was not recorded.")
    steps, level = with_length_errors(run), settings.truncated_share
    step, share = series(steps, "truncated_share")
    stderr = None
    if "length_dof" in steps.columns and bool(steps["length_dof"].notna().all()):
        prompts = steps.loc[steps["truncated_share"].notna(), "length_dof"].to_numpy(dtype=np.float64) + 1
        stderr = np.sqrt(max(level * (1 - level), 1e-6) / prompts)
    found = level_test(step, share, stderr, level=level, alpha=settings.false_alarms)
    if found is None:
        return undetermined(DETECTOR, "One step is too few to say anything of truncation.")
    evidence, course = asdict(found), f"from {found.start:.0%} at the start to {found.end:.0%} at the end"
    if found.above:
        reason = (
            f"From step {found.onset_step:g} on, more than {level:.0%} of the responses hit the length limit (up to "
            f"{found.highest:.0%}; {course}): their lengths and scores are those of the limit."
        )
        return Verdict(DETECTOR, "truncating", 1 - found.above_p_value, reason, evidence)
    if found.below(settings.false_alarms):
        reason = f"At most {found.highest:.0%} of the responses hit the length limit (below {level:.0%}); {course}."
        return Verdict(DETECTOR, "within_limit", 1 - found.below_p_value, reason, evidence)
    reason = f"Whether more than {level:.0%} of the responses hit the length limit cannot be told from {found.looks} "
    return undetermined(DETECTOR, f"{reason}steps: it is {found.highest:.0%} at most, {course}.", **evidence)
