"""Over-optimization: the score does not fall and true accuracy falls (Gao et al. 2023, arXiv:2210.10760).

Optimization against a proxy raises the true reward first and lowers it later, so accuracy at the end of a run is
compared with that of every window w of `buckets.step_windows` before it, not only with its start:

    loss_w = a_w − a_end,       e_w² = v_w + v_end,     v = p (1 − p) / n with p = (k + 1) / (n + 2)
    over_optimized:  loss_w − l > z e_w for some w, l = `accuracy_loss`, and since w the score has not fallen by more
                     than its error
    aligned:         otherwise, if at every w a loss of L = `accuracy_visible` can be excluded, L − loss_w > z₁ e_w with
                     z₁ of one look, or the score has fallen

k of n responses of a window are correct. z leaves `false_alarms` over all windows (Bonferroni), which pays for choosing
the highest of them. Where score and accuracy fall together the reward is right about a run that goes wrong: aligned.
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.buckets import LOGGED_BATCH, Floats, finite, step_windows
from bai_pipeline.dynamics.noise import step_noise
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "over_optimization"
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Windows:
    """Score and accuracy of each window, with their variances; all (windows,)."""

    accuracy: Floats
    accuracy_variance: Floats
    score: Floats
    score_variance: Floats
    steps: Floats
    """The last step of each."""
    validity: tuple[float, float]
    """`validity` of the first and the last window."""


def validity(responses: pd.DataFrame) -> float:
    """Point-biserial correlation of score and correctness within steps: whether the reward still ranks responses.

        r = Σ (x − x̄_step)(y − ȳ_step) / sqrt(Σ (x − x̄_step)² Σ (y − ȳ_step)²)

    NaN where either does not vary.

    Args:
        responses: step, score, correct.
    """
    y = responses["correct"].astype(np.float64)
    score, right = (x - x.groupby(responses["step"]).transform("mean") for x in (responses["score"], y))
    scale = sqrt(float((score**2).sum()) * float((right**2).sum()))
    return float((score * right).sum()) / scale if scale > 0 else float("nan")


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """over_optimized or aligned; undetermined without true accuracy.

    Without `responses` that know whether they are correct, a step's noise is taken from the differences of neighboring
    steps.

    Confidence: of over_optimized, one minus the p-value of the loss of accuracy over all windows; of aligned, one minus
    the largest p-value of a loss of `accuracy_visible` over the windows.
    """
    windows = windows_of(run)
    if windows is None:
        return undetermined(DETECTOR, "True accuracy was not recorded beside the score.")
    looks = len(windows.steps) - 1
    if looks < 1:
        return undetermined(DETECTOR, "Score and accuracy of 2 steps are needed, got 1.")
    loss, gain = windows.accuracy[:-1] - windows.accuracy[-1], windows.score[-1] - windows.score[:-1]
    error = np.sqrt(windows.accuracy_variance[:-1] + windows.accuracy_variance[-1])
    gain_error = np.sqrt(windows.score_variance[:-1] + windows.score_variance[-1])
    if not np.isfinite(error).all():
        return undetermined(DETECTOR, f"{looks + 1} steps without responses are too few to know their noise.")

    z, z_fall = (_NORMAL.inv_cdf(1 - settings.false_alarms / count) for count in (looks, 1))
    excess = np.array([_ratio(x - settings.accuracy_loss, e) for x, e in zip(loss, error, strict=True)])
    held = gain >= -z_fall * gain_error
    lost = (excess > z) & held
    since = int(np.where(held, excess, -np.inf).argmax()) if held.any() else 0
    spare = [_ratio(settings.accuracy_visible - x, e) for x, e in zip(loss[held], error[held], strict=True)]
    p_aligned = max((_NORMAL.cdf(-x) for x in spare), default=0.0)
    evidence = finite(
        {
            "windows": looks + 1,
            "accuracy_start": float(windows.accuracy[0]),
            "accuracy_end": float(windows.accuracy[-1]),
            "accuracy_change": -float(loss[0]),
            "accuracy_change_error": float(error[0]),
            "score_change": float(gain[0]),
            "score_change_error": float(gain_error[0]),
            "since_step": float(windows.steps[since]),
            "accuracy_loss": float(loss[since]),
            "accuracy_loss_error": float(error[since]),
            "score_change_since": float(gain[since]),
            "score_change_since_error": float(gain_error[since]),
            "validity_start": windows.validity[0],
            "validity_end": windows.validity[1],
            "least_visible_loss": settings.accuracy_loss + z * float(error[0]),
        }
    )
    if lost.any():
        p = min(1.0, looks * _NORMAL.cdf(-float(excess[since])))
        reason = f"Since step {windows.steps[since]:g} true accuracy fell by {loss[since]:.2f} ± {error[since]:.2f}, "
        reason += f"to {windows.accuracy[-1]:.2f}, while the score changed by {gain[since]:+.2f} ± "
        reason += f"{gain_error[since]:.2f}."
        return Verdict(DETECTOR, "over_optimized", 1 - p, reason + _validity_sentence(windows.validity), evidence)
    if p_aligned > settings.false_alarms:
        reason = (
            f"Since step {windows.steps[since]:g} true accuracy changed by {-loss[since]:+.2f} ± {error[since]:.2f} "
        )
        reason += "and the score did not fall: the loss can neither be told from noise nor excluded."
        return undetermined(DETECTOR, reason, **evidence)
    changes = f"true accuracy {windows.accuracy[0]:.2f} → {windows.accuracy[-1]:.2f}, score {gain[0]:+.2f}"
    reason = f"No loss of accuracy beyond {settings.accuracy_loss:g} while the score held can be told from noise; "
    if bool((excess > z).any()):
        reason = "Accuracy and score fell together, so the score does not hide the loss; "
    return Verdict(
        DETECTOR, "aligned", 1 - p_aligned, reason + changes + "." + _validity_sentence(windows.validity), evidence
    )


def _ratio(excess: float, error: float) -> float:
    return excess / error if error > 0 else float(np.sign(excess)) * float("inf") if excess else 0.0


def _validity_sentence(values: tuple[float, float]) -> str:
    if not np.isfinite(values).all():
        return ""
    start, end = values
    return f" Within steps, score and correctness correlate by {start:+.2f} at the start and by {end:+.2f} at the end."


def windows_of(run: RunTables) -> Windows | None:
    """From responses where they know whether they are correct, or from steps; None without accuracy or score."""
    if run.responses is not None and {"score", "correct"} <= set(run.responses.columns):
        known = run.responses.dropna(subset=["score", "correct"])
        if not known.empty:
            return _of_responses(known)
    return _of_steps(run.steps) if run.has("score_mean", "accuracy") else None


def _of_responses(responses: pd.DataFrame) -> Windows:
    per_step = responses.groupby("step").size()
    windows = step_windows(per_step.tolist())
    ends = per_step.index.to_numpy(dtype=np.float64)[[window.stop - 1 for window in windows]]
    row = np.searchsorted(ends, responses["step"].to_numpy())
    values = responses[["score", "correct"]].astype(np.float64).set_axis(["score", "right"], axis=1)
    groups = values.groupby(row)
    n = groups.size().to_numpy(dtype=np.float64)
    k = groups["right"].sum().to_numpy(dtype=np.float64)
    p = (k + 1) / (n + 2)
    return Windows(
        accuracy=k / n,
        accuracy_variance=p * (1 - p) / n,
        score=groups["score"].mean().to_numpy(dtype=np.float64),
        score_variance=groups["score"].var().fillna(0.0).to_numpy(dtype=np.float64) / n,
        steps=ends,
        validity=(validity(responses[row == 0]), validity(responses[row == row.max()])),
    )


def _of_steps(steps: pd.DataFrame) -> Windows:
    known = steps.dropna(subset=["score_mean", "accuracy"])
    columns = [known[name].to_numpy(dtype=np.float64) for name in ("accuracy", "score_mean")]
    windows = step_windows([LOGGED_BATCH] * len(known))
    size = np.array([window.stop - window.start for window in windows], dtype=np.float64)
    accuracy, score = (np.array([values[window].mean() for window in windows]) for values in columns)
    return Windows(
        accuracy=accuracy,
        accuracy_variance=step_noise(columns[0]) ** 2 / size,
        score=score,
        score_variance=step_noise(columns[1]) ** 2 / size,
        steps=known["step"].to_numpy(dtype=np.float64)[[window.stop - 1 for window in windows]],
        validity=(float("nan"), float("nan")),
    )
