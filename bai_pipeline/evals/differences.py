"""How two rows differ on the questions that both answered, and how far that may be chance (see `comparisons`).

n questions, S seeds of a row, R rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from zlib import crc32

import numpy as np
import pandas as pd

from bai_pipeline.evals.weighted import Floats, influences, weighted_mean

_COUNTS = 100_000
"""Draws held at once, about: what stays in a processor's cache is counted several times faster."""
ZERO = 1e-12
"""Differences of shares below this are rounding."""


@dataclass(frozen=True)
class Answers:
    """What the seeds of one row scored on the questions of a benchmark that all of them answered."""

    ids: "pd.Index[str]"
    """(n,), sorted."""
    asked: frozenset[str]
    """Questions that at least one seed answered."""
    seeds: tuple[int, ...]
    scores: Floats
    """(n, S)."""
    weights: Floats
    """(n, S)."""


@dataclass(frozen=True)
class Seeds:
    """One row of a pair, on the questions of the pair (of all benchmarks, for the average)."""

    label: str
    means: Floats
    """(S,), the score of each seed."""
    noise: float
    """r² / n: the variance that the noise of single answers gives a seed's score."""

    @property
    def score(self) -> float:
        return float(self.means.mean())

    @property
    def spread(self) -> float:
        """s² / S, 0 with one seed."""
        return float(self.means.var(ddof=1)) / len(self.means) if len(self.means) > 1 else 0.0

    @property
    def variance(self) -> float:
        """V of `comparisons`."""
        return max(0.0, self.spread - self.noise / len(self.means))


@dataclass(frozen=True)
class Difference:
    """Two rows on one benchmark, or on the average."""

    row: Seeds
    other: Seeds
    n: int
    left_out: int
    better: int
    worse: int
    variance: float
    """From the choice of questions; NaN at one question."""
    uncertainty: float
    """Σ v² / df over the terms of `variance`, for the degrees of freedom."""
    exact: bool
    """McNemar's test applies."""


def answers_of(questions: pd.DataFrame) -> dict[str, dict[str, Answers]]:
    """Benchmark → row → answers, in the order of the lines."""
    found: dict[str, dict[str, Answers]] = {}
    for (benchmark, row), lines in questions.groupby(["benchmark", "row"], sort=False):
        wide = lines.pivot(index="id", columns="seed", values=["score", "weight"]).dropna().sort_index()
        scores, weights = wide["score"], wide["weight"]
        found.setdefault(str(benchmark), {})[str(row)] = Answers(
            ids=scores.index,
            asked=frozenset(lines["id"]),
            seeds=tuple(int(s) for s in scores.columns),
            scores=scores.to_numpy(dtype=np.float64),
            weights=weights.to_numpy(dtype=np.float64),
        )
    return found


def differences(
    benchmark: str, found: Mapping[str, Answers], pairs: Sequence[tuple[str, str]], draws: int, seed: int
) -> Iterator[tuple[tuple[str, str], Difference, Floats]]:
    """Each pair with the bootstrap's deviations (draws,) from its difference, by the choice of questions alone."""
    by_questions: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for pair in pairs:
        shared = found[pair[0]].ids.intersection(found[pair[1]].ids).sort_values()
        by_questions.setdefault(tuple(shared), []).append(pair)
    for shared_ids, members in by_questions.items():
        if not shared_ids:
            continue
        labels = list(dict.fromkeys(label for pair in members for label in pair))
        rows = {label: _Shared.of(found[label], label, shared_ids) for label in labels}
        matrix = np.stack([rows[label].influences.mean(axis=1) for label in labels], axis=1)
        deviations = _resample(matrix, draws, _generator(seed, "questions", benchmark))
        for pair in members:
            a, b = (labels.index(label) for label in pair)
            left_out = len(found[pair[0]].asked | found[pair[1]].asked) - len(shared_ids)
            difference = _difference(rows[pair[0]], rows[pair[1]], left_out)
            yield pair, difference, deviations[:, a] - deviations[:, b]


@dataclass(frozen=True)
class _Shared:
    """A row's answers to the questions that it shares with another row."""

    label: str
    scores: Floats
    """(n, S)."""
    weights: Floats
    """(n, S)."""
    influences: Floats
    """(n, S)."""

    @classmethod
    def of(cls, answers: Answers, label: str, ids: tuple[str, ...]) -> "_Shared":
        places = answers.ids.get_indexer(pd.Index(ids))
        scores, weights = answers.scores[places], answers.weights[places]
        columns = [influences(scores[:, s], weights[:, s]) for s in range(scores.shape[1])]
        return cls(label, scores, weights, np.stack(columns, axis=1))

    def seeds(self) -> Seeds:
        n, count = self.scores.shape
        means = np.array([weighted_mean(self.scores[:, s], self.weights[:, s])[0] for s in range(count)])
        if n == 1 or count == 1:
            return Seeds(self.label, means, 0.0)
        residuals = self.influences - self.influences.mean(axis=1, keepdims=True)
        return Seeds(self.label, means, float((residuals**2).sum()) / ((count - 1) * (n - 1)) / n)


def _difference(row: _Shared, other: _Shared, left_out: int) -> Difference:
    n = len(row.scores)
    gap = row.scores.mean(axis=1) - other.scores.mean(axis=1)
    u = row.influences.mean(axis=1) - other.influences.mean(axis=1)
    variance = float(u @ u) / (n * (n - 1)) if n > 1 else nan
    scores, weights = np.hstack([row.scores, other.scores]), np.hstack([row.weights, other.weights])
    return Difference(
        row=row.seeds(),
        other=other.seeds(),
        n=n,
        left_out=left_out,
        better=int((gap > ZERO).sum()),
        worse=int((gap < -ZERO).sum()),
        variance=variance,
        uncertainty=variance**2 / (n - 1) if n > 1 else nan,
        exact=scores.shape[1] == 2
        and bool(np.isin(scores, (0.0, 1.0)).all())
        and bool((weights == weights[0, 0]).all()),
    )


def average(parts: Sequence[Difference]) -> Difference:
    """The mean over benchmarks: independent questions, the same seeds."""
    count = len(parts)

    def seeds(of: Sequence[Seeds]) -> Seeds:
        means = np.mean([part.means for part in of], axis=0)
        return Seeds(of[0].label, means, sum(part.noise for part in of) / count**2)

    return Difference(
        row=seeds([part.row for part in parts]),
        other=seeds([part.other for part in parts]),
        n=sum(part.n for part in parts),
        left_out=sum(part.left_out for part in parts),
        better=sum(part.better for part in parts),
        worse=sum(part.worse for part in parts),
        variance=sum(part.variance for part in parts) / count**2,
        uncertainty=sum(part.uncertainty for part in parts) / count**4,
        exact=False,
    )


def widened(found: Difference, total: float, deviations: Floats, benchmark: str, seed: int) -> Floats:
    """The deviations with the seeds' part, as Student's t of the sum's degrees of freedom."""
    if total == 0.0:
        return deviations
    sides = [side for side in (found.row, found.other) if len(side.means) > 1]
    signs = {found.row.label: 1.0, found.other.label: -1.0}
    for side in sides:
        normal = _generator(seed, "seeds", benchmark, side.label).standard_normal(len(deviations))
        deviations = deviations + signs[side.label] * sqrt(side.variance) * normal
    uncertainty = found.uncertainty + sum(side.spread**2 / (len(side.means) - 1) for side in sides)
    freedom = max(1.0, total**2 / uncertainty) if uncertainty else np.inf
    if np.isinf(freedom):
        return deviations
    chi_squared = 2 * _generator(seed, "freedom", benchmark).standard_gamma(freedom / 2, len(deviations))
    return deviations * np.sqrt(freedom / chi_squared)


def _resample(matrix: Floats, draws: int, generator: np.random.Generator) -> Floats:
    """Means (draws, R) of n − 1 lines of `matrix` (n, R), drawn with replacement."""
    n = len(matrix)
    means = np.zeros((draws, matrix.shape[1]))
    if n == 1:
        return means
    step = max(1, _COUNTS // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = generator.integers(n, size=(size, n - 1)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = counts.astype(np.float64) @ matrix / (n - 1)
    return means


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each purpose, so that nothing depends on the order of the work."""
    return np.random.default_rng([seed, *(crc32(name.encode("utf-8")) for name in names)])
