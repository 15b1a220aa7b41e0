"""Means and standard errors over seeds.

Every seed's model answers the same questions, so the errors of two seeds are not independent: a hard set of questions
is hard for all of them, and more seeds do not make it a larger set. With S seeds whose scores x_j have standard errors
e_j (over questions, see `weighted`), the mean has

    stderr² = mean_j e_j²  +  s² / S,        s² = Σ_j (x_j - mean)² / (S - 1)

The first term is the choice of questions, the second the choice of seeds. The law of total variance gives the exact
value with the item variance in place of e_j², which also holds the noise of a single answer; so this never understates
the error (in expectation), and overstates its square by at most mean_j e_j². With one seed the second term is unknown
and left out: the error is then over questions only.

The average over K benchmarks is averaged per seed first, which keeps what a seed's benchmarks share; questions of
different benchmarks are independent:

    stderr² = Σ_k (mean_j e_jk²) / K²  +  s² / S,   with s² of the seeds' averages
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from bai_pipeline.errors import DataError


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds."""

    score: float
    stderr: float
    """NaN where a benchmark has a single question."""
    seeds: int


def combine_seeds(scores: Sequence[float], stderrs: Sequence[float]) -> Estimate:
    """One benchmark: the scores and standard errors of S seeds."""
    return combine_benchmarks([scores], [stderrs])


def combine_benchmarks(scores: Sequence[Sequence[float]], stderrs: Sequence[Sequence[float]]) -> Estimate:
    """The average over benchmarks and seeds.

    Args:
        scores, stderrs: K benchmarks of S seeds, seeds in the same order everywhere.

    Raises:
        DataError: nothing to combine, different numbers of seeds, or a score that is not finite.
    """
    seeds = len(scores[0]) if scores else 0
    if seeds == 0 or any(len(row) != seeds for row in [*scores, *stderrs]) or len(stderrs) != len(scores):
        raise DataError(f"expected every benchmark to have the same seeds, got {[len(row) for row in scores]} scores")
    if not all(isfinite(score) for row in scores for score in row):
        raise DataError(f"expected finite scores, got {scores}")
    count = len(scores)
    averages = [sum(row[j] for row in scores) / count for j in range(seeds)]
    mean = sum(averages) / seeds
    problems = sum(sum(e * e for e in row) / seeds for row in stderrs) / count**2
    between = sum((a - mean) ** 2 for a in averages) / (seeds - 1) / seeds if seeds > 1 else 0.0
    return Estimate(mean, sqrt(problems + between), seeds)
