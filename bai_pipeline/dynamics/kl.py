"""KL(training policy ‖ sampling policy) of a step: its level, its volatility, and its spikes.

With k_t the column `kl_train_sample`, an estimate of KL(π_train ‖ π_sample) over a step's mini-batch visits, and b_t
its running median:

    x_t        = log(k_t / b_t)
    σ          = median |x_t| / 0.6745            volatility: e^σ is the typical factor between a step and its neighbors
    level      = median k_t
    spike:       k_t > `kl_spike` · max(b_t, level)  and  x_t > z h σ, h = 1.3 + 1.166 / √n
    volatile:    σ > log `kl_volatility`, by more than z standard errors of σ (1.166 σ / √n for n steps)

z leaves half of `false_alarms` over all n steps; h allows for tails heavier than normal, see `_tail`.

A spike must stand out of the run's own volatility: where steps differ by factors of three anyway, a step of five times
the median says nothing. Logarithms, because a KL is positive and its errors are proportional to it; a running median,
because the KL grows with the learning rate while that warms up, and the run's level beside it, because some steps of a
policy that hardly changes any more are near 0, and an ordinary one among them is no spike. A change of level that lasts
longer than half a window is none either; `level_end` beside `level_start` shows it.

`kl_mismatch` is the same on the first visit, before any update: what sampler and trainer compute differently from the
same weights. Where it makes up most of the KL, the engines are to be looked at, not the step size.
"""

from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.buckets import Floats, finite
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "kl_train_sample"
_NORMAL = NormalDist()
_FEWEST = 10
"""Steps below which neither volatility nor a spike can be told."""
_HALF_WINDOW, _WINDOW_SHARE = 3, 20
_FLOOR = 0.01
"""A KL below this share of the run's median counts as that much: 0 has no logarithm."""
_MAD_ERROR = 1.166
"""√n times the relative standard error of a normal sample's median absolute deviation."""
_HEAVY_TAIL = 1.3


def running_median(values: Floats, half: int) -> Floats:
    """Median of up to `half` neighbors on either side and the step itself.

    Near the start the two sides shrink together, so that a trend does not bias it; the last steps have fewer neighbors
    after them, so that a spike is seen at once.
    """
    reach = np.minimum(half, np.maximum(np.arange(len(values)), 2))
    spans = zip(np.arange(len(values)) - reach, np.arange(len(values)) + reach + 1, strict=True)
    return np.array([np.median(values[max(0, low) : high]) for low, high in spans])


def log_deviations(kl: Floats) -> Floats:
    """x_t = log(k_t / b_t), with a running median of a tenth of the steps, at least 7."""
    logs = np.log(np.maximum(kl, _FLOOR * np.median(kl)))
    return logs - running_median(logs, max(_HALF_WINDOW, len(kl) // _WINDOW_SHARE))


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """spiking, volatile or steady, in this order.

    Confidence: one minus the p-value of the statement; of spiking over all steps (Bonferroni), with half of
    `false_alarms` for it and half for volatile; of steady, that of a volatility below the threshold. A volatility above
    it, but not by more than its error, is undetermined.
    """
    if not run.has("kl_train_sample"):
        return undetermined(DETECTOR, "kl_train_sample was not recorded.")
    known = run.steps.dropna(subset=["kl_train_sample"])
    kl = known["kl_train_sample"].to_numpy(dtype=np.float64)
    level = float(np.median(kl))
    if len(kl) < _FEWEST:
        return undetermined(
            DETECTOR, f"Volatility and spikes need {_FEWEST} steps, got {len(kl)}.", level=level, steps=len(kl)
        )
    if not level > 0:
        return undetermined(DETECTOR, "More than half of the steps have a KL of 0.", level=level, steps=len(kl))

    n, x = len(kl), log_deviations(kl)
    sigma = float(np.median(np.abs(x))) / 0.6745
    z = _NORMAL.inv_cdf(1 - settings.false_alarms / (2 * n)) * _tail(n)
    height = np.minimum(kl / level, np.exp(x))
    spikes = np.flatnonzero((height > settings.kl_spike) & (x > z * sigma))
    p_volatile = _NORMAL.cdf((1 - sigma / log(settings.kl_volatility)) * sqrt(n) / _MAD_ERROR)
    fifth = max(1, n // 5)
    evidence = finite(
        {
            "steps": n,
            "level": level,
            "level_start": float(np.median(kl[:fifth])),
            "level_end": float(np.median(kl[-fifth:])),
            "volatility": exp(sigma),
            "spikes": len(spikes),
            "largest": float(kl.max()),
            "largest_step": int(known["step"].iloc[int(kl.argmax())]),
            "largest_factor": exp(float(x.max())),
            **_mismatch(known, spikes.tolist()),
        }
    )
    typical = f"its typical factor from the running median is {exp(sigma):.1f}"
    mismatch = _mismatch_sentence(evidence)
    if len(spikes):
        top = int(spikes[x[spikes].argmax()])
        p = 1.0 if sigma == 0 else min(1.0, 2 * n * _NORMAL.cdf(-float(x[top]) / sigma / _tail(n)))
        reason = f"KL is {exp(float(x[top])):.1f} times the running median at step {known['step'].iloc[top]}"
        reason += f", and {len(spikes)} of {n} steps spike; level {level:.2g}, {typical}.{mismatch}"
        return Verdict(DETECTOR, "spiking", 1 - p if sigma > 0 else 1.0, reason, evidence)
    if p_volatile <= settings.false_alarms / 2:
        reason = f"The KL of a step varies: level {level:.2g}, {typical}, above {settings.kl_volatility:g}.{mismatch}"
        return Verdict(DETECTOR, "volatile", 1 - p_volatile, reason, evidence)
    if p_volatile < 0.5:
        reason = f"Level {level:.2g}; {typical}, above {settings.kl_volatility:g}, but {n} steps are too few to tell."
        return undetermined(DETECTOR, reason + mismatch, **evidence)
    reason = f"Level {level:.2g}; {typical}, and no step stands out by {settings.kl_spike:g} times.{mismatch}"
    return Verdict(DETECTOR, "steady", p_volatile, reason, evidence)


def _tail(n: int) -> float:
    """How much heavier than normal the tail of x / σ is: σ is estimated from n steps, the running median from few.

    One standard error of σ, and a factor measured on noise with an autocorrelation of up to 0.8 (tests).
    """
    return _HEAVY_TAIL + _MAD_ERROR / sqrt(n)


def _mismatch(steps: pd.DataFrame, spikes: list[int]) -> dict[str, float | int | None]:
    if "kl_mismatch" not in steps.columns or not bool(steps["kl_mismatch"].notna().any()):
        return {}
    share = (steps["kl_mismatch"] / steps["kl_train_sample"].where(steps["kl_train_sample"] > 0)).to_numpy()
    return {
        "mismatch_level": float(np.nanmedian(steps["kl_mismatch"])),
        "mismatch_share": float(np.nanmedian(share)) if np.isfinite(share).any() else None,
        "spikes_of_mismatch": int(sum(share[step] > 0.5 for step in spikes)),
    }


def _mismatch_sentence(evidence: dict[str, float | int | str | bool | None]) -> str:
    share, spikes = evidence.get("mismatch_share"), evidence.get("spikes_of_mismatch")
    if isinstance(spikes, int) and spikes > 0:
        return f" {spikes} of the spikes are there before any update: sampler and trainer disagree numerically."
    if isinstance(share, float) and share > 0.5:
        return f" {share:.0%} of it is there before any update: sampler and trainer disagree numerically."
    return ""
