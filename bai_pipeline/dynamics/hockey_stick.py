"""Reward Hockey Stick: the score falls from where the run began, and then recovers (paper, Figures 6 and 7).

In each bucket of response lengths, and in all of them together, with c_w the change of the score since the bucket's own
start and e_w its error (`score_curves`):

    decline:       −c_w − d > z e_w for some window w, with d = `hockey_stick_decline`
    hockey_stick:  and from the lowest such window to the last one the score rises by more than z errors, and by at
                   least half of the decline
    steady:        otherwise, if a decline of D = `hockey_stick_visible` can be excluded, D + c_w > z₁ e_w for every
                   window w of all buckets together, z₁ of one look: each of them has to pass

z leaves `false_alarms` over all looks (Bonferroni): half of it to all buckets together, half to the single ones. That
pays for having looked for the lowest of many windows, in the decline and in the recovery from it; the start is fixed in
advance.
"""

from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from bai_pipeline.dynamics.buckets import decompose, finite
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.score_curves import Curves, curves_of
from bai_pipeline.dynamics.verdicts import Verdict, undetermined
from bai_pipeline.dynamics_settings import DynamicsSettings

DETECTOR = "reward_hockey_stick"
_NORMAL = NormalDist()
_RECOVERED = 0.5


@dataclass(frozen=True)
class Dip:
    """The fall of a series below its start and what came after; in standard deviations of the first step's scores."""

    trough_step: float
    decline: float
    decline_error: float
    recovery: float
    """From the trough to the last window."""
    recovery_error: float
    final_gain: float
    """From the start to the last window; NaN where the last window has too few responses."""
    final_gain_error: float
    p_fall: float
    """Of a fall by no more than the threshold, over all looks."""
    p_rise: float
    """Of no recovery, over all looks."""

    def recovered(self, false_alarms: float) -> bool:
        """Whether the fall was followed by a recovery worth the name."""
        return self.p_rise <= false_alarms and self.recovery >= _RECOVERED * self.decline


def find_dip(curves: Curves, bucket: int | None, settings: DynamicsSettings, *, looks: int) -> Dip | None:
    """The dip of a bucket, or (None) of all together; None where no window can be compared with the start.

    The trough is the lowest window that fell by more than `hockey_stick_decline`; without one, the surest.
    """
    c, e = np.array([curves.change(0, window, bucket) for window in range(1, curves.looks + 1)]).T
    if np.isnan(c).all():
        return None
    fall = -c - settings.hockey_stick_decline
    p = np.array([_p_value(*pair, looks) for pair in zip(fall, e, strict=True)])
    trough = int(np.lexsort((c, p > max(p.min(), settings.false_alarms)))[0])
    recovery, recovery_error = curves.change(trough + 1, curves.looks, bucket)
    return Dip(
        trough_step=float(curves.steps[trough + 1]),
        decline=-float(c[trough]),
        decline_error=float(e[trough]),
        recovery=recovery,
        recovery_error=recovery_error,
        final_gain=float(c[-1]),
        final_gain_error=float(e[-1]),
        p_fall=float(p.min()),
        p_rise=1.0 if trough + 1 == curves.looks else _p_value(recovery, recovery_error, looks),
    )


def _p_value(excess: float, error: float, looks: int) -> float:
    """One-sided, of an excess over what is tested, Bonferroni; 1 where it is unknown."""
    if not excess > 0:
        return 1.0
    return min(1.0, looks * _NORMAL.cdf(-excess / error)) if error > 0 else 0.0


def detect(run: RunTables, settings: DynamicsSettings) -> Verdict:
    """hockey_stick, decline (no recovery yet) or steady.

    Without `responses` the mean score is all there is: a step's noise is taken from the differences of neighboring
    steps, and a fall that is only mass moving between buckets cannot be told from a decline.

    Confidence: of hockey_stick and decline, one minus the p-value of the statement over all looks; of steady, one minus
    the largest p-value of a decline of `hockey_stick_visible`, in all buckets together, over the windows.
    """
    curves = curves_of(run, settings)
    if curves is None:
        return undetermined(DETECTOR, "No scores were recorded.")
    if curves.looks < 2:
        return undetermined(DETECTOR, f"A decline and a recovery need 3 steps with scores, got {curves.looks + 1}.")
    if not curves.unit > 0:
        return undetermined(DETECTOR, "The scores of the first step do not vary, so a decline has no unit.")

    return _judge(curves, settings)


def _judge(curves: Curves, settings: DynamicsSettings) -> Verdict:
    judged, alpha, d = curves.judged, settings.false_alarms, settings.hockey_stick_decline
    share = 2 if judged else 1
    together = find_dip(curves, None, settings, looks=share * curves.looks)
    single = {b: find_dip(curves, b, settings, looks=share * curves.looks * len(judged)) for b in judged}
    fell = {b: dip for b, dip in single.items() if dip is not None and dip.p_fall <= alpha}
    z = _NORMAL.inv_cdf(1 - alpha / (share * curves.looks))
    compared = [pair for w in range(1, curves.looks + 1) if not np.isnan((pair := curves.change(0, w, None))[0])]
    p_steady = max((_p_value(settings.hockey_stick_visible + c, e, 1) for c, e in compared), default=1.0)
    error = float(np.median([e for _, e in compared])) if compared else np.inf

    dip, name = together, curves.name
    if fell and (together is None or together.p_fall > alpha):
        bucket = min(fell, key=lambda b: fell[b].p_fall)
        dip, name = fell[bucket], f"the score of responses from {curves.table.first_token[bucket]:g} tokens on"
    mix, mix_sentence = _mean_score(curves, d, z, dip if dip is not None and dip.p_fall <= alpha else None)
    counts = {
        "by_bucket": not curves.note,
        "windows": curves.looks + 1,
        "buckets_judged": len(judged),
        "buckets_declined": len(fell),
        "buckets_recovered": sum(dip.recovered(alpha) for dip in fell.values()),
        "least_visible_decline": d + z * error,
    }
    evidence = finite(counts | ({} if dip is None else asdict(dip)) | mix)

    def verdict(word: str, confidence: float, sentence: str) -> Verdict:
        return Verdict(DETECTOR, word, confidence, curves.note + sentence + mix_sentence, evidence)

    if dip is None or dip.p_fall > alpha:
        sentence = f"No decline of {name} by more than {d:g} standard deviations can be told from noise"
        if p_steady > alpha:
            sentence += f", but one of {settings.hockey_stick_visible:g} cannot be excluded either: too few responses."
            return undetermined(DETECTOR, curves.note + sentence + mix_sentence, **evidence)
        sentence += f"; one of {d + z * error:.2f} would be found with even odds."
        return verdict("steady", 1 - p_steady, sentence)
    sentence = f"By step {dip.trough_step:g} {name} had fallen by {dip.decline:.2f} ± {dip.decline_error:.2f} standard "
    sentence += "deviations of the first step's scores"
    if not dip.recovered(alpha):
        return verdict("decline", 1 - dip.p_fall, f"{sentence}; no recovery yet.")
    sentence += f"; then it rose by {dip.recovery:.2f} ± {dip.recovery_error:.2f}"
    sentence += f", to {dip.final_gain:+.2f} from its start."
    return verdict("hockey_stick", 1 - max(dip.p_fall, dip.p_rise), sentence)


def _mean_score(curves: Curves, threshold: float, z: float, dip: Dip | None) -> tuple[dict[str, float | None], str]:
    """The mean score at the trough, or at its own lowest without a dip, and how much of its change is mass that moved.

    Returns:
        Evidence, and a sentence where the mean score would mislead.
    """
    n, mean = curves.table.count, curves.table.mean
    changes = {w: decompose(n[0], mean[0], n[w], mean[w]) for w in range(1, curves.looks + 1)}
    window = min(changes, key=lambda w: changes[w].total)
    if dip is not None:
        window = curves.steps.tolist().index(dip.trough_step)
    total, between = changes[window].total / curves.unit, changes[window].between / curves.unit
    error = sqrt(sum(curves.table.window_sd[w] ** 2 / n[w].sum() for w in (0, window))) / curves.unit
    fell = -total - threshold > z * error
    sentence = ""
    if dip is not None and total >= 0:
        sentence = f" The mean score hides it, {total:+.2f} at that step: responses moved to buckets of higher scores."
    elif dip is None and fell and between < total / 2:
        sentence = f" The mean score fell by {-total:.2f} up to step {curves.steps[window]:g}, but "
        sentence += (
            f"{between / total:.0%} of that is responses moving to length buckets of lower scores (Simpson's paradox)."
        )
    numbers = {
        "mean_change": total,
        "mean_change_error": error,
        "mix_change": between,
        "mix_share": between / total if fell else None,
    }
    return numbers, "" if curves.note else sentence
