"""The weighted mean over a benchmark's questions, its standard error, and what each question contributes to it.

With scores x_i and weights w_i of n questions:

    m   = Σ w_i x_i / Σ w_i
    u_i = n w_i (x_i − m) / Σ w          influence of question i; their sum is 0
    se² = Σ u_i² / (n (n − 1))

For equal weights se is the sample standard deviation over √n (Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640). Where the weights depend on the verdicts, as in judged games, it is the linearization of a ratio
estimator (Cochran 1977, "Sampling Techniques", chapter 6). Influences of two models on the same questions subtract:
their difference has the error of the differences, which is what pairs them.
"""

from collections.abc import Sequence
from math import nan, sqrt

import numpy as np
import pandas as pd

from bai_pipeline.errors import DataError

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
SAMPLE_COLUMNS = ("id", "repeat", "score", "weight")


def weighted_mean(scores: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> tuple[float, float]:
    """Mean and standard error.

    Args:
        scores, weights: (n,), one per question.

    Returns:
        m and se; se is NaN at one question.

    Raises:
        DataError: no question, different lengths, a value that is not finite, a negative weight, or no weight at all.
    """
    x, w = _checked(scores, weights)
    n = len(x)
    mean = _mean(x, w)
    if n == 1:
        return mean, nan
    u = _influences(x, w)
    return mean, sqrt(float(u @ u) / (n * (n - 1)))


def influences(scores: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> Floats:
    """The influences u, (n,).

    Raises:
        DataError: as `weighted_mean`.
    """
    return _influences(*_checked(scores, weights))


def question_scores(samples: pd.DataFrame) -> pd.DataFrame:
    """One line per question of a samples table, its repeats averaged.

    Where repeats have different weights, the score is their weighted mean and the weight their mean: the benchmark's
    mean over questions is then the one over all repeats.

    Args:
        samples: columns id, repeat, score, weight, and any others.

    Returns:
        id, score, weight; questions in the order of their first repeat.

    Raises:
        DataError: a column is absent, a repeat is there twice, or a value is not what `weighted_mean` takes.
    """
    absent = [c for c in SAMPLE_COLUMNS if c not in samples.columns]
    if absent:
        raise DataError(f"expected samples with columns {', '.join(SAMPLE_COLUMNS)}, {', '.join(absent)} absent")
    twice = samples[samples.duplicated(["id", "repeat"])]
    if not twice.empty:
        raise DataError(
            f"expected one sample per question and repeat, got several for question {twice.iloc[0]['id']!r}, repeat "
            f"{twice.iloc[0]['repeat']}"
        )
    if samples.empty:
        return pd.DataFrame({"id": pd.Series(dtype="str"), "score": [], "weight": []})
    x, w = np.asarray(samples["score"], dtype=np.float64), np.asarray(samples["weight"], dtype=np.float64)
    _check_values(x, w)
    table = pd.DataFrame({"id": samples["id"].to_numpy(), "plain": x, "product": x * w, "weight": w})
    means = table.groupby("id", sort=False).mean()
    weighted = means["product"] / means["weight"].where(means["weight"] > 0)
    # x * w / w may round: where the weights are equal, the plain mean is the exact one.
    uneven = table.groupby("id", sort=False)["weight"].nunique() > 1
    return means.assign(score=weighted.where(uneven, means["plain"]))[["score", "weight"]].reset_index()


def _checked(scores: Sequence[float] | Floats, weights: Sequence[float] | Floats) -> tuple[Floats, Floats]:
    x, w = np.asarray(scores, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if x.ndim != 1 or x.shape != w.shape or not len(x):
        raise DataError(f"expected as many weights as scores and at least one, got shapes {x.shape} and {w.shape}")
    _check_values(x, w)
    if w.sum() == 0:
        raise DataError(f"expected a weight above 0, got none in {len(w)} questions")
    return x, w


def _check_values(x: Floats, w: Floats) -> None:
    for name, values, wrong in (("score", x, ~np.isfinite(x)), ("weight", w, ~np.isfinite(w) | (w < 0))):
        if wrong.any():
            first = int(wrong.argmax())
            kind = "finite scores" if name == "score" else "finite weights of 0 or more"
            raise DataError(f"expected {kind}, got {name} {values[first]} at position {first}")


def _mean(x: Floats, w: Floats) -> float:
    return float(w @ x) / float(w.sum())


def _influences(x: Floats, w: Floats) -> Floats:
    centred: Floats = w * (x - _mean(x, w))
    return centred * (len(x) / float(w.sum()))
