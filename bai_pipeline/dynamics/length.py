"""Sequence Length Collapse: responses become short and stay so (paper, Sections 1 and 4).

With L_t the mean length of step t's responses and D = `collapse_depth`, a run has

    collapsed:     for some window of 2, 4, 8, … steps the geometric mean of L_t is below (1 − D) L_0, beyond noise
    healthy:       it did not, and for every window of W steps that mean is above (1 − D) L_0, beyond noise
    undetermined:  otherwise, and below 6 steps unless it collapsed

"Beyond noise" is defined in `crossing`: the chance that a steady run is ever called collapsed is at most
`false_alarms`, over all steps at which one looks, and nothing that comes later takes it back. W grows with the noise.

The noise of L_t comes from the responses of step t, clustered by prompt where prompts are repeated, and from what
neighboring steps differ beyond that (`noise.step_error`); where a log has means only, from the steps alone.
A start of few responses is not known well, so neither is the loss: a loss near D stays undetermined.
"""

from dataclasses import asdict

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.relative_loss import RelativeLoss, relative_loss, series
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "length_collapse"
ERROR_COLUMNS = ("length_stderr", "length_dof")
"""Columns of `steps` that stand in for `responses`: all that this detector reads of them."""


def length_errors(responses: pd.DataFrame) -> pd.DataFrame:
    """Standard error of each step's mean length, and its degrees of freedom.

        s² = G / (G − 1) · Σ_g (Σ_{i in g} (l_i − L))² / n²          over the G prompts g of a step (Liang & Zeger 1986)

    Where every prompt has one response, or `prompt_id` is absent, this is the variance of the lengths over n.

    Args:
        responses: step, length and, where known, prompt_id.

    Returns:
        step, length_stderr (NaN where G = 1), length_dof (G − 1).
    """
    known = responses.dropna(subset=["length"])
    length, step = known["length"].astype("float64"), known["step"]
    deviation = length - length.groupby(step).transform("mean")
    prompt = known["prompt_id"] if "prompt_id" in known.columns else pd.Series(range(len(known)), index=known.index)
    cluster = deviation.groupby([step, prompt], sort=True, dropna=False).sum().pow(2)
    clusters = cluster.groupby(level=0).agg(["sum", "count"])
    n = length.groupby(step).count()
    prompts = clusters["count"]
    variance = clusters["sum"] * (prompts / (prompts - 1).where(prompts > 1)) / n**2
    return pd.DataFrame({"length_stderr": np.sqrt(variance), "length_dof": prompts - 1}).reset_index(names="step")


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """collapsed or healthy.

    Confidence: of collapsed, one minus the p-value of "no window lost more than D", over all looks; of healthy, one
    minus that of "a window of W steps lost more than D".
    """
    if not run.has("length_mean"):
        return undetermined(DETECTOR, "No lengths of responses were recorded.")
    found = length_loss(run, settings)
    if found is None:
        return undetermined(DETECTOR, "A loss of length needs 2 steps, and a first step that is not of length 0.")
    evidence = asdict(found)
    if found.lost:
        return Verdict(DETECTOR, "collapsed", 1 - found.lost_p_value, _collapsed(found), evidence)
    if found.kept and found.kept_p_value <= settings.false_alarms:
        return Verdict(DETECTOR, "healthy", 1 - found.kept_p_value, _healthy(found, settings), evidence)
    return undetermined(DETECTOR, _open(found, settings), **evidence)


def length_loss(run: RunTables, settings: DynamicsSettings) -> RelativeLoss | None:
    """What the mean length lost."""
    steps = with_length_errors(run)
    step, value = series(steps, "length_mean")
    stderr: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None
    dof = np.inf
    if set(ERROR_COLUMNS) <= set(steps.columns):
        known = steps[steps["length_mean"].notna()]
        if bool(known["length_stderr"].notna().all()):
            stderr = known["length_stderr"].to_numpy(dtype=np.float64)
            dof = float(known["length_dof"].iloc[0])
    return relative_loss(step, value, stderr, dof, loss=settings.collapse_depth, alpha=settings.false_alarms)


def with_length_errors(run: RunTables) -> pd.DataFrame:
    """`steps` with `ERROR_COLUMNS`, from `responses` where there are any."""
    if run.responses is None or "length" not in run.responses.columns or set(ERROR_COLUMNS) <= set(run.steps.columns):
        return run.steps
    return run.steps.merge(length_errors(run.responses), on="step", how="left")


def _collapsed(found: RelativeLoss) -> str:
    text = (
        f"Mean length fell from {found.start:.4g} to {found.trough:.4g} tokens by step {found.trough_step:g} "
        f"(-{found.depth:.0%}, at least -{found.depth_low:.0%}); the fall began at step {found.onset_step:g} and was "
        f"beyond noise at step {found.detected_step:g}. "
    )
    end = f"at {found.end:.4g} tokens, {_band(found)} of the start"
    if found.recovery == "none":
        return text + f"It did not recover: it ends {end}."
    return text + ("It recovered" if found.recovery == "recovered" else "It recovered in part") + f": it ends {end}."


def _healthy(found: RelativeLoss, settings: DynamicsSettings) -> str:
    return (
        f"Mean length kept at least {1 - max(found.depth_high, 0.0):.0%} of its start, {found.start:.4g} tokens "
        f"(a loss of more than {settings.collapse_depth:.0%} is a collapse); it ends at {found.end:.4g}, "
        f"{_band(found)} of the start."
    )


def _open(found: RelativeLoss, settings: DynamicsSettings) -> str:
    limit = f"{settings.collapse_depth:.0%} of the start, {found.start:.4g} tokens"
    if not np.isfinite(found.relative_noise):
        return f"{found.looks + 1} steps without their responses are too few to tell a fall from noise."
    if found.kept_p_value <= settings.false_alarms:
        return f"No loss of more than {limit}, so far; {found.looks + 1} steps are too few to call that healthy."
    return (
        f"A loss of more than {limit}, can be neither shown nor excluded: the largest is {found.depth:.0%}, with a "
        f"start known to ±{found.start_error:.0%} and steps to ±{found.relative_noise:.0%}."
    )


def _band(found: RelativeLoss) -> str:
    return f"{found.end_ratio:.2f} ({found.end_ratio_low:.2f} to {found.end_ratio_high:.2f})"
