"""Scores by length of response and window of steps, and what a change of the mean score is made of.

Bucket i of width w holds the responses of i·w ≤ length < (i + 1)·w tokens (paper, Figures 2, 6 and 7: w = 100).

The mean score is a mixture, m = Σ p_i m_i with p_i the share of bucket i and m_i its mean, so it can fall while every
bucket rises, only because mass moves to buckets that score lower (Simpson 1951). `decompose` tells the two apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bai_pipeline.errors import DataError

Floats = NDArray[np.float64]

START_RESPONSES = 256
"""Responses from which the start of a run is known to 1/16 of their standard deviation."""
LOGGED_BATCH = 64
"""Responses that a step is taken to have where only its mean is known."""
_OWN_SD = 30
"""Responses from which a bucket's own standard deviation is used."""
_START_SHARE, _WIDEST_SHARE, _GROWTH = 10, 5, 1.5


def bucket_scores(responses: pd.DataFrame, width: int, window: int = 1, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean score of every bucket in every window of steps: what the paper draws in Figures 2, 6 and 7.

    Args:
        responses: step, length, score, and the columns of `by`. Rows without a score are left out.
        width: tokens of a bucket.
        window: steps of a window; the first one begins at the table's first step.
        by: columns that tell runs apart, such as init and seed; runs with equal ones are pooled.

    Returns:
        `by`, bucket, first_token, step (the window's first), n, mean, sem (NaN where n = 1); no line where n = 0.

    Raises:
        DataError: a column is absent, or a length is negative.
    """
    _check(responses, [*by, "step", "length", "score"])
    scored = responses.dropna(subset=["score"])
    bucket = (scored["length"] // width).astype("int64")
    first = scored["step"].min()
    step = first + (scored["step"] - first) // window * window
    groups = scored.assign(bucket=bucket, first_token=bucket * width, step=step).groupby(
        [*by, "bucket", "first_token", "step"], sort=True
    )
    return groups["score"].agg(n="count", mean="mean", sem="sem").reset_index()


def step_windows(responses: Sequence[float]) -> list[slice]:
    """Windows of steps that cover a run: narrow at its start, where it changes fast, and wider later.

    The first window is the run's start: the fewest first steps that hold START_RESPONSES responses, at most a tenth of
    the steps. It is fixed before any score is seen: a start chosen for being high would fall by regression to the mean.
    A later window that begins at step t has t / 2 steps, at least as many as the start and at most a fifth of the run;
    a rest of less than half of that belongs to the window before it. So there are few looks, about log t of them, and a
    short dip is still seen where dips occur.

    Args:
        responses: how many each step has.
    """
    steps = len(responses)
    enough = int(np.searchsorted(np.cumsum(responses), START_RESPONSES)) + 1
    start = max(1, min(enough, steps // _START_SHARE))
    widest = max(start, steps // _WIDEST_SHARE)
    edges = [0, start]
    while edges[-1] < steps:
        edges.append(edges[-1] + min(widest, max(start, int(edges[-1] * (_GROWTH - 1)))))
    if len(edges) > 3 and 2 * (steps - edges[-2]) < edges[-1] - edges[-2]:
        del edges[-2]
    edges[-1] = steps
    return [slice(low, high) for low, high in pairwise(edges)]


def finite(numbers: Mapping[str, float | int | str | bool | None]) -> dict[str, float | int | str | bool | None]:
    """Evidence with None for what is not known: NaN and infinity have no place in JSON."""
    return {name: None if isinstance(x, float) and not isfinite(x) else x for name, x in numbers.items()}


@dataclass(frozen=True)
class BucketTable:
    """Scores by window and bucket."""

    count: Floats
    """(windows, buckets)."""
    mean: Floats
    """(windows, buckets), NaN where there is no response."""
    sd: Floats
    """(windows, buckets): of the bucket's own scores, or of all scores of the window where the bucket has too few."""
    window_sd: Floats
    """(windows,): of all scores of the window."""
    first_token: Floats
    """(buckets,)."""

    @classmethod
    def of(cls, responses: pd.DataFrame, windows: Sequence[slice], steps: Sequence[int], width: int) -> Self:
        """The table of `responses` (step, length, score) over windows of positions in `steps`."""
        ends = [steps[window.stop - 1] for window in windows]
        row = np.searchsorted(ends, responses["step"].to_numpy())
        names, column = np.unique(responses["length"].to_numpy() // width, return_inverse=True)
        score = responses["score"].to_numpy(dtype=np.float64)
        shape = (len(windows), len(names))

        def sums(values: Floats) -> Floats:
            cells = np.bincount(row * shape[1] + column, weights=values, minlength=shape[0] * shape[1])
            return cells.astype(np.float64).reshape(shape)

        count, total = sums(np.ones_like(score)), sums(score)
        mean = np.divide(total, count, out=np.full(shape, np.nan), where=count > 0)
        squares = sums((score - mean[row, column]) ** 2)
        sd = np.sqrt(squares / np.maximum(count - 1, 1))
        overall = total.sum(1) / np.maximum(count.sum(1), 1)
        spread = sums((score - overall[row]) ** 2).sum(1) / np.maximum(count.sum(1) - 1, 1)
        sd = np.where(count >= _OWN_SD, sd, np.sqrt(spread)[:, None])
        return cls(count, mean, sd, np.sqrt(spread), (names * width).astype(np.float64))


@dataclass(frozen=True)
class ScoreChange:
    """A change of the mean score and its two parts."""

    total: float
    within: float
    """By scores that changed inside buckets."""
    between: float
    """By mass that moved between buckets."""


def decompose(count_0: Floats, mean_0: Floats, count_1: Floats, mean_1: Floats) -> ScoreChange:
    """Parts of the change of the mean score from 0 to 1 (Kitagawa 1955; Oaxaca 1973 and Blinder 1973 in regression).

        total   = Σ p'_i m'_i − Σ p_i m_i
        within  = Σ (p_i + p'_i) / 2 · (m'_i − m_i)
        between = Σ (m_i + m'_i) / 2 · (p'_i − p_i)
        total   = within + between, exactly

    p = count / Σ count. A bucket that is empty at one time is given its mean at the other: all that it changes is mass.

    Args:
        count_0, mean_0, count_1, mean_1: (buckets,); the mean of an empty bucket is ignored.

    Raises:
        DataError: there is no response at all at one of the times.
    """
    if not (count_0.sum() > 0 and count_1.sum() > 0):
        raise DataError("expected responses before and after, got none: their mean score did not change, it is unknown")
    share_0, share_1 = count_0 / count_0.sum(), count_1 / count_1.sum()
    old = np.where(count_0 > 0, mean_0, np.where(count_1 > 0, mean_1, 0.0))
    new = np.where(count_1 > 0, mean_1, old)
    return ScoreChange(
        total=float(share_1 @ new - share_0 @ old),
        within=float((share_0 + share_1) / 2 @ (new - old)),
        between=float((old + new) / 2 @ (share_1 - share_0)),
    )


def score_change(before: pd.DataFrame, after: pd.DataFrame, width: int) -> ScoreChange:
    """`decompose` for two tables of responses (length, score).

    Raises:
        DataError: a column is absent, a length is negative, or a table has no scores.
    """
    sides = []
    for table in (before, after):
        _check(table, ["length", "score"])
        scored = table.dropna(subset=["score"])
        sides.append(scored.groupby(scored["length"] // width)["score"].agg(["count", "mean"]))
    buckets = sides[0].index.union(sides[1].index)
    aligned = [side.reindex(buckets) for side in sides]
    counts = [side["count"].fillna(0).to_numpy(dtype=np.float64) for side in aligned]
    means = [side["mean"].to_numpy(dtype=np.float64) for side in aligned]
    return decompose(counts[0], means[0], counts[1], means[1])


def _check(responses: pd.DataFrame, columns: Sequence[str]) -> None:
    absent = [name for name in columns if name not in responses.columns]
    if absent:
        raise DataError(f"expected a table of responses with {', '.join(columns)}; it has no {', '.join(absent)}")
    if bool((responses["length"] < 0).any()):
        raise DataError(f"expected lengths of 0 tokens or more, got {responses['length'].min()}")
