"""The score of a run relative to its start, by length bucket: what a hockey stick is looked for in.

In each bucket of response lengths, and in all of them together, over the windows of `buckets.step_windows`:

    c_w  = (m_w − m_0) / s                   score relative to the bucket's own start, window 0
    e_w² = (s_w² / n_w + s_0² / n_0) / s²    its squared error, from the responses of the two windows

s is the standard deviation of the first step's scores. "All buckets together" is the change inside buckets alone, with
the mean of the two windows' shares as weights (the within part of `buckets.decompose`, over the buckets that both
windows have): mass that moves to buckets of other scores (Simpson's paradox) does not enter it.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.buckets import LOGGED_BATCH, BucketTable, Floats, step_windows
from bai_pipeline.dynamics.noise import step_noise
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics_settings import DynamicsSettings


@dataclass(frozen=True)
class Curves:
    """Scores of a run by window and bucket, and the unit of their changes."""

    table: BucketTable
    unit: float
    """s."""
    steps: Floats
    """(windows,): the last step of each."""
    smallest: int
    """Responses of a window below which a single bucket is not judged."""
    name: str = "the score within length buckets"
    """What all buckets together are."""
    note: str = ""
    """What a reader must know of the data."""

    @property
    def looks(self) -> int:
        """Windows after the start."""
        return len(self.steps) - 1

    @property
    def judged(self) -> list[int]:
        """The buckets whose start has enough responses, where there is more than one bucket."""
        return [] if len(self.table.first_token) < 2 else np.flatnonzero(self.table.count[0] >= self.smallest).tolist()

    def change(self, since: int, until: int, bucket: int | None) -> tuple[float, float]:
        """c and e between two windows, of one bucket or (None) of all together; NaN where there are too few."""
        n, mean, sd = self.table.count, self.table.mean, self.table.sd
        if bucket is not None:
            if min(n[since, bucket], n[until, bucket]) < self.smallest:
                return np.nan, np.nan
            error = sqrt(sum(sd[w, bucket] ** 2 / n[w, bucket] for w in (since, until)))
            return float(mean[until, bucket] - mean[since, bucket]) / self.unit, error / self.unit
        both = (n[since] > 0) & (n[until] > 0)
        if not both.any():
            return np.nan, np.nan
        weight = sum(n[w, both] / n[w].sum() for w in (since, until))
        weight = weight / weight.sum()
        variance = sum(sd[w, both] ** 2 / n[w, both] for w in (since, until))
        return float(weight @ (mean[until] - mean[since])[both]) / self.unit, sqrt(weight**2 @ variance) / self.unit


def curves_of(run: RunTables, settings: DynamicsSettings) -> Curves | None:
    """The scores of a run by window and bucket; by window alone without `responses`; None without scores."""
    if run.responses is not None and {"length", "score"} <= set(run.responses.columns):
        scored = run.responses.dropna(subset=["length", "score"])
        if not scored.empty:
            return _by_bucket(scored, settings)
    return _by_mean(run.steps) if run.has("score_mean") else None


def _by_bucket(responses: pd.DataFrame, settings: DynamicsSettings) -> Curves:
    per_step = responses.groupby("step")["score"].agg(["count", "std"])
    windows = step_windows(per_step["count"].tolist())
    return Curves(
        table=BucketTable.of(responses, windows, per_step.index.tolist(), settings.bucket_width),
        unit=float(per_step["std"].iloc[0]),
        steps=per_step.index.to_numpy(dtype=np.float64)[[window.stop - 1 for window in windows]],
        smallest=settings.smallest_bucket,
    )


def _by_mean(steps: pd.DataFrame) -> Curves:
    """The mean score as one bucket, whose "responses" are steps; their noise goes with `score_std` where known."""
    known = steps.dropna(subset=["score_mean"])
    score = known["score_mean"].to_numpy(dtype=np.float64)
    std = known["score_std"].to_numpy(dtype=np.float64) if "score_std" in known.columns else np.full_like(score, np.nan)
    note = "Only the mean score is known: mass that moves between lengths cannot be told from a change of scores. "
    if bool((std > 0).all()):
        noise, unit = step_noise(score, std) * std, float(std[0])
    else:
        noise = np.full_like(score, step_noise(score))
        unit = sqrt(LOGGED_BATCH) * float(noise[0])
        note += f"A standard deviation is taken as {sqrt(LOGGED_BATCH):g} times the noise of a step's mean. "
    windows = step_windows([LOGGED_BATCH] * len(score))
    count = np.array([[window.stop - window.start] for window in windows], dtype=np.float64)
    mean = np.array([[score[window].mean()] for window in windows])
    spread = np.array([sqrt((noise[window] ** 2).mean()) for window in windows])
    return Curves(
        table=BucketTable(count, mean, spread[:, None], spread, np.zeros(1)),
        unit=unit,
        steps=known["step"].to_numpy(dtype=np.float64)[[window.stop - 1 for window in windows]],
        smallest=1,
        name="the mean score",
        note=note,
    )
