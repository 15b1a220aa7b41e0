"""Critic offset: a critic that is wrong about long prefixes changes the length of responses in the first steps.

Let c_t be the error of the value before token t, V_t = v_t + c_t with v_t the true value, and let the only reward be
the score R after the last token T (γ = 1). Then δ_t = v_{t+1} − v_t + c_{t+1} − c_t for t < T and δ_T = R − v_T − c_T,
and GAE gives each token, beside its true advantage, an error. To stop at t (T = t), or to go on to T = t + K:

    stop:       −c_t
    go on:      −c_t + (1 − λ) Σ_{j=1..K} λ^{j−1} c_{t+j}
    difference: −(1 − λ) Σ_{j=1..K} λ^{j−1} c_{t+j}             = −c (1 − λ^K) for a constant error c

So c_t itself cancels. What counts is the error on the *longer* prefixes that going on would lead to, over about
1 / (1 − λ) tokens: if it is negative, stopping looks better than it is, at every prefix at which the policy might stop,
and responses get shorter; if it is positive they grow; if λ = 1 nothing happens. The error need not differ between
short and long prefixes, a constant suffices. Whitening takes the same number from both sides and scales them: the sign
stays. `stop_gap` sees the same from the other side: with a constant error the stop tokens' mean advantage lies
−c (1 − mean λ^k) above that of the others, k tokens before the end.

This detector reads both, in the first `critic_steps` steps (EXPERIMENT: an error of −0.56 on prefixes of 40-80 tokens
comes before a fall of the length, one near 0 does not, and a constant added to the critic turns it):

    e = Σ tokens · (V − R) / Σ tokens / s      over prefixes of at least half the first step's mean length
    g = mean of `stop_gap` / s

s is the standard deviation of the first step's scores. All tokens of a response share its R, so the error of e is that
of n responses, not of their tokens. With N_j = tokens / width responses in the j-th bucket from the first long one,
where one that reaches through J buckets weighs J,

    n = (Σ N_j)² / Σ (2 j + 1) N_j  per step,      error of e = max(1 / √(Σ n), sd of the steps' e / √steps)

    underestimates_long_prefixes:  −e − d > z · error, d = `critic_error`     announces shorter responses
    overestimates_long_prefixes:    e − d > z · error                         announces longer ones
    calibrated: neither, and an error of D = `critic_visible` can be excluded, D − |e| > z · error

If g has the other sign beyond its own error, the readings disagree: undetermined. The offset is one force of two: where
longer responses score higher, the reward itself pulls the other way (`length_score_correlation`), and what is announced
is contested.
"""

from math import atanh, isfinite, sqrt
from statistics import NormalDist

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.buckets import Floats, finite
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "critic_offset"
_NORMAL = NormalDist()
_WORDS = {
    -1: ("underestimates_long_prefixes", "shortening", "under"),
    1: ("overestimates_long_prefixes", "growth", "over"),
}


def stop_bias(errors: Floats, *, lam: float) -> float:
    """What stopping now gains over going on by the critic's error alone: −(1 − λ) Σ λ^{j−1} c_{t+j}.

    Args:
        errors: (K,), c of the K prefixes that going on leads to.
        lam: λ of the actor's advantages.
    """
    return -(1 - lam) * float(lam ** np.arange(len(errors)) @ errors)


def long_prefix_error(prefixes: pd.DataFrame, first: float, *, width: float) -> tuple[float, float]:
    """Mean of V − R over the tokens of prefixes of `first` tokens or more, and how many responses stand behind it.

    Args:
        prefixes: prefix, tokens, value_error of one step.
        first: tokens.
        width: tokens of a bucket of prefixes.

    Returns:
        Mean and n, (NaN, 0) where no response is that long.
    """
    long = prefixes[prefixes["prefix"] >= first].dropna(subset=["value_error"]).sort_values("prefix")
    tokens = long["tokens"].to_numpy(dtype=np.float64)
    if not tokens.sum() > 0:
        return float("nan"), 0.0
    error = long["value_error"].to_numpy(dtype=np.float64)
    prefix = long["prefix"].to_numpy(dtype=np.float64)
    reached, position = tokens / width, (prefix - prefix[0]) / width
    return float(tokens @ error / tokens.sum()), float(reached.sum() ** 2 / ((2 * position + 1) @ reached))


def length_score_correlation(responses: pd.DataFrame) -> tuple[float, float]:
    """Correlation of length and score within steps, and its z-score (Fisher); NaN where either does not vary."""
    length, score = (
        responses[name] - responses.groupby("step")[name].transform("mean") for name in ("length", "score")
    )
    scale = sqrt(float((length**2).sum()) * float((score**2).sum()))
    freedom = len(responses) - responses["step"].nunique() - 2
    if not (scale > 0 and freedom > 0):
        return float("nan"), float("nan")
    r = float((length * score).sum()) / scale
    return r, atanh(min(max(r, -0.999999), 0.999999)) * sqrt(freedom)


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """underestimates_long_prefixes, overestimates_long_prefixes or calibrated.

    Confidence: of the first two, (1 − p) · P, with p the p-value of the error (two-sided) and P = Φ(±g / its error) how
    likely `stop_gap` has the same sign, ½ where it was not recorded: agreement raises it, doubt halves it. It is the
    confidence in the critic's error, not in what follows from it. Of calibrated, one minus the p-value of an error of
    `critic_visible`.
    """
    if run.prefixes is None or not {"prefix", "tokens", "value_error"} <= set(run.prefixes.columns):
        return undetermined(DETECTOR, "The critic's error by prefix was not recorded.")
    scale = _first_scale(run)
    length = float(run.steps["length_mean"].iloc[0])
    if not (scale > 0 and isfinite(length)):
        return undetermined(DETECTOR, "The first step's mean length or the spread of its scores is not known.")
    steps = run.steps.head(settings.critic_steps)
    tables = [run.prefixes[run.prefixes["step"] == step] for step in steps["step"]]
    edges = np.unique(run.prefixes["prefix"].to_numpy(dtype=np.float64))
    if len(edges) < 2:
        return undetermined(DETECTOR, "The critic's error was recorded for one bucket of prefixes only.")
    width = float(np.diff(edges).min())
    read = [long_prefix_error(table, length / 2, width=width) for table in tables if not table.empty]
    errors, counts = np.array([(mean / scale, n) for mean, n in read if n > 0]).reshape(-1, 2).T
    if not counts.sum() > 0:
        return undetermined(DETECTOR, f"No prefix of at least {length / 2:.0f} tokens was seen.")
    e = float(counts @ errors / counts.sum())
    spread = float(errors.std(ddof=1)) / sqrt(len(errors)) if len(errors) > 1 else 0.0
    error = max(1 / sqrt(float(counts.sum())), spread)
    responses = sum(float(table["tokens"].max()) / width for table in tables if not table.empty)
    gap, gap_error = _stop_gap(steps, responses, scale)
    r, r_z = float("nan"), float("nan")
    if run.responses is not None and {"length", "score"} <= set(run.responses.columns):
        early = run.responses[run.responses["step"].isin(steps["step"])]
        r, r_z = length_score_correlation(early.dropna(subset=["length", "score"]))

    z = _NORMAL.inv_cdf(1 - settings.false_alarms / 2)
    sign = -1 if e < 0 else 1
    shown = abs(e) - settings.critic_error > z * error
    p_calibrated = min(1.0, 2 * _NORMAL.cdf((abs(e) - settings.critic_visible) / error))
    agreement = _NORMAL.cdf(-sign * gap / gap_error) if gap_error > 0 else 0.5
    word, announced, side = _WORDS[sign]
    contested = -sign * r_z > _NORMAL.inv_cdf(1 - settings.false_alarms)
    evidence = finite(
        {
            "steps": len(errors),
            "first_long_prefix": length / 2,
            "value_error": e,
            "value_error_error": error,
            "responses": float(counts.sum()),
            "stop_gap": gap,
            "stop_gap_error": gap_error,
            "length_score_correlation": r,
            "announces": ("contested" if contested else announced) if shown else "nothing",
        }
    )
    measured = (
        f"On prefixes of {length / 2:.0f} tokens or more, in the first {len(errors)} steps, the critic's error is "
    )
    measured += f"{e:+.2f} ± {error:.2f} standard deviations of the scores"
    stops = f"stop tokens gain {gap:+.2f} ± {gap_error:.2f} over others" if isfinite(gap) else "stop_gap is not known"
    if not shown:
        if p_calibrated > settings.false_alarms:
            reason = f"{measured}: not for sure beyond {settings.critic_error:g}, nor for sure within "
            return undetermined(DETECTOR, f"{reason}{settings.critic_visible:g}; {stops}.", **evidence)
        reason = f"{measured}, not beyond {settings.critic_error:g} and its own error; {stops}."
        return Verdict(DETECTOR, "calibrated", 1 - p_calibrated, reason, evidence)
    if agreement < settings.false_alarms:
        reason = f"{measured}, which would announce {announced}, but {stops}: the two readings disagree."
        return undetermined(DETECTOR, reason, **evidence | {"announces": "nothing"})
    p = min(1.0, 2 * _NORMAL.cdf(-(abs(e) - settings.critic_error) / error))
    reason = f"{measured}, and {stops}: long responses are {side}valued, which announces {announced}."
    if contested:
        pull = "higher" if r > 0 else "lower"
        reason += f" But longer responses score {pull} (r = {r:+.2f}), and that pulls the other way."
    return Verdict(DETECTOR, word, (1 - p) * agreement, reason, evidence)


def _first_scale(run: RunTables) -> float:
    """Standard deviation of the first step's scores; NaN where unknown."""
    if run.has("score_std"):
        return float(run.steps["score_std"].iloc[0])
    if run.responses is None or "score" not in run.responses.columns:
        return float("nan")
    return float(run.responses.loc[run.responses["step"] == run.steps["step"].iloc[0], "score"].std(ddof=0))


def _stop_gap(steps: pd.DataFrame, responses: float, scale: float) -> tuple[float, float]:
    """g and its error, from about `responses` responses; NaN where it was not recorded."""
    if "stop_gap" not in steps.columns or not bool(steps["stop_gap"].notna().any()):
        return float("nan"), float("nan")
    gaps = steps["stop_gap"].dropna().to_numpy(dtype=np.float64) / scale
    spread = float(gaps.std(ddof=1)) / sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return float(gaps.mean()), max(spread, 1 / sqrt(max(responses, 1.0)))
