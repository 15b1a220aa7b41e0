"""Score by length of response over steps, the seeds of an initialization together."""

from math import ceil

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.buckets import bucket_scores

FEWEST, WINDOWS = 10, 40
"""Windows of steps that a run is drawn in."""
TYPICAL = 48
"""Responses of a point."""
SMALLEST = 8
"""Responses below which a point is not drawn."""
BUCKETS = 12
"""Buckets that are drawn, at most: of more, evenly spaced ones."""
SMALLEST_SHARE = 0.01
"""Of all responses, below which a bucket is not drawn."""


def window_steps(responses: pd.DataFrame, width: int) -> int:
    """Steps of a window: few enough for FEWEST windows and many enough for at most WINDOWS.

    Between the two, so many that a point has about TYPICAL responses.
    """
    step = responses["step"]
    steps = int(step.max()) - int(step.min()) + 1
    points = responses.assign(bucket=responses["length"] // width).drop_duplicates(["init", "bucket", "step"])
    wanted = ceil(TYPICAL * len(points) / len(responses))
    return max(1, ceil(steps / WINDOWS), min(steps // FEWEST, wanted))


def bucket_curves(responses: pd.DataFrame, width: int, window: int) -> pd.DataFrame:
    """Mean score of each bucket and window over all responses of all seeds, with one standard error either side.

        m   = Σ n_s m_s / Σ n_s
        e²  = S / (S − 1) Σ (n_s / N)² (m_s − m)²

    over the S seeds that have such responses: the error of a ratio of sums over independent runs (Cochran 1977, 2.11);
    with equal n_s it is the standard error of a mean over seeds. Where an init has one seed at all, e is the standard
    error over the responses; where one of several seeds has such responses, there is none.

    Returns:
        init, bucket, first_token, step (the window's first), n, seeds, mean, low, high, drawn (n is SMALLEST or more).
    """
    table = bucket_scores(responses, width, window, by=("init", "seed"))
    keys = ["init", "bucket", "first_token", "step"]
    groups = table.assign(total=table["n"] * table["mean"]).groupby(keys, sort=True)
    pooled = groups.agg(n=("n", "sum"), seeds=("seed", "nunique"), total=("total", "sum"), one=("sem", "first"))
    pooled = pooled.reset_index()
    pooled["mean"] = pooled["total"] / pooled["n"]
    each = table.merge(pooled[[*keys, "n", "mean"]], on=keys, suffixes=("", "_all"))
    each["square"] = (each["n"] / each["n_all"] * (each["mean"] - each["mean_all"])) ** 2
    squares = each.groupby(keys, sort=True)["square"].sum().to_numpy()
    seeds = pooled["seeds"].to_numpy(dtype=np.float64)
    over_seeds = np.sqrt(np.divide(seeds, seeds - 1, out=np.full_like(seeds, np.nan), where=seeds > 1) * squares)
    alone = pooled["init"].map(table.groupby("init")["seed"].nunique()).to_numpy() == 1
    error = np.where(alone, pooled["one"], over_seeds)
    pooled["low"], pooled["high"] = pooled["mean"] - error, pooled["mean"] + error
    pooled["drawn"] = pooled["n"] >= SMALLEST
    return pooled[[*keys, "n", "seeds", "mean", "low", "high", "drawn"]]


def drawn_buckets(curves: pd.DataFrame) -> list[int]:
    """The buckets that a figure shows, ascending."""
    totals = curves[curves["drawn"]].groupby("bucket")["n"].sum()
    common = [int(bucket) for bucket in totals.index[totals >= SMALLEST_SHARE * curves["n"].sum()]]
    if len(common) <= BUCKETS:
        return common
    return [common[i] for i in np.linspace(0, len(common) - 1, BUCKETS).round().astype(int)]
