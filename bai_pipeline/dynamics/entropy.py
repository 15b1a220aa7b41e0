"""Entropy collapse: the policy becomes certain of nearly every token, and stops exploring.

With H_t the mean entropy per token at step t and f = `entropy_floor`:

    collapsed:  for some window of 2, 4, 8, … steps the geometric mean of H_t is below f H_0, beyond noise
    healthy:    it did not, and for every window of W steps that mean is above f H_0, beyond noise

Entropy is judged against the run's own start: a policy that was certain before its first update has not collapsed, but
it has little to lose, and that is said. Noise is taken from how neighboring steps differ. See `crossing`.
"""

from dataclasses import asdict

import numpy as np

from bai_pipeline.dynamics.relative_loss import relative_loss, series
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "entropy_collapse"
LOW_START = 0.02
"""Nats per token: a policy that begins below has a perplexity of 1.02 or less."""


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """collapsed or healthy.

    Confidence: of collapsed, one minus the p-value of "entropy was never below f H_0", over all looks; of healthy, one
    minus that of "it was in some window of W steps".
    """
    if not run.has("entropy"):
        return undetermined(DETECTOR, "The policy's entropy was not recorded.")
    step, entropy = series(run.steps, "entropy")
    found = relative_loss(step, entropy, None, np.inf, loss=1 - settings.entropy_floor, alpha=settings.false_alarms)
    if found is None:
        return undetermined(DETECTOR, "A loss of entropy needs 2 steps, and a first step that is above 0.")
    low = found.start < LOW_START
    evidence = {**asdict(found), "low_at_start": low}
    note = f" It began low, at {found.start:.3g} nats a token: the policy was certain before its first update."
    note = note if low else ""
    course = (
        f"{found.start:.3g} nats a token at the start, {found.trough:.3g} at the lowest, {found.end:.3g} at the end"
    )
    if found.lost:
        reason = (
            f"Entropy fell below {settings.entropy_floor:.0%} of its start for sure at step {found.detected_step:g}, "
        )
        reason += f"in a fall that began at step {found.onset_step:g} ({course}).{note}"
        return Verdict(DETECTOR, "collapsed", 1 - found.lost_p_value, reason, evidence)
    if found.kept and found.kept_p_value <= settings.false_alarms:
        reason = f"Entropy stayed above {settings.entropy_floor:.0%} of its start ({course}).{note}"
        return Verdict(DETECTOR, "healthy", 1 - found.kept_p_value, reason, evidence)
    reason = f"Whether entropy fell below {settings.entropy_floor:.0%} of its start cannot be told from "
    return undetermined(DETECTOR, f"{reason}{found.looks + 1} steps ({course}).{note}", **evidence)
