"""Router collapse: nearly all tokens go to the same few experts.

With E experts, k of them for each token, and h_t = `expert_load_entropy` (entropy of the experts' shares of a layer's
choices over log E, mean over layers): h = 1 where the load is even, log k / log E where all tokens choose the same k.
A log has neither E nor k. But every mixture of experts in use has k ≤ √E (Switch 1 of 128, Mixtral 2 of 8, OLMoE 8 of
64, DeepSeek-V3 8 of 256), and then a fully collapsed router has h ≤ 1/2. So

    u_t = min(1, 2 (1 − h_t))       0: even; 1: at least necessary for full collapse, and sufficient where k = √E

    collapsed:  for some window of 2, 4, 8, … steps the mean of u_t is above `router_load`, beyond noise
    healthy:    it did not, and for every window of W steps that mean is below it, beyond noise

h is a mean over layers, so one collapsed layer among many does not show in it. It shows in `expert_load_max` (E times
the largest share, of the worst layer), which is then E / k ≥ √E. Without E that can only be excluded, where the maximum
stays below 2; otherwise it is given as evidence. Noise is taken from how neighboring steps differ; see `crossing`.
"""

from dataclasses import asdict

import numpy as np

from bai_pipeline.dynamics.fixed_level import level_test
from bai_pipeline.dynamics.relative_loss import series
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "router_collapse"
LAYER_MAXIMUM = 2.0
"""√E of the smallest mixture that is plausible, of 4 experts: below it no layer has collapsed."""


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """collapsed or healthy.

    Confidence: of collapsed, one minus the p-value of "u was never above `router_load`", over all looks; of healthy,
    one minus that of "it was in some window of W steps".
    """
    if not run.has("expert_load_entropy"):
        return undetermined(
            DETECTOR, "No load of experts was recorded: the policy is dense, or its log has no such column."
        )
    step, entropy = series(run.steps, "expert_load_entropy")
    load = np.clip(2 * (1 - entropy), 0.0, 1.0)
    found = level_test(step, load, None, level=settings.router_load, alpha=settings.false_alarms)
    if found is None:
        return undetermined(DETECTOR, "One step is too few to say anything of the router.")
    maximum = float(run.steps["expert_load_max"].max()) if run.has("expert_load_max") else None
    evidence = {**asdict(found), "largest_expert_load": maximum}
    course = f"{found.start:.2f} at the start, {found.highest:.2f} at most, {found.end:.2f} at the end"
    course += (
        "" if maximum is None else f"; in the worst layer the busiest expert has up to {maximum:.2f} times its share"
    )
    if found.above:
        reason = f"From step {found.onset_step:g} on the load of the experts is concentrated (0 is even, 1 collapsed: "
        return Verdict(DETECTOR, "collapsed", 1 - found.above_p_value, f"{reason}{course}).", evidence)
    if found.below(settings.false_alarms):
        reason = f"The load of the experts stayed spread (0 is even, 1 collapsed: {course})."
        if maximum is None or maximum >= LAYER_MAXIMUM:
            reason += " That is a mean over layers: a single collapsed layer cannot be excluded."
        return Verdict(DETECTOR, "healthy", 1 - found.below_p_value, reason, evidence)
    reason = f"Whether the router collapsed cannot be told from {found.looks} steps (0 is even, 1 collapsed: {course})."
    return undetermined(DETECTOR, reason, **evidence)
