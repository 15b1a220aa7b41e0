"""Win rates of pairwise verdicts, plain and at equal length.

Length control is one logistic regression (Bradley and Terry's model with a covariate), the style control of ArenaHard
(https://github.com/lmarena/arena-hard-auto) restricted to length and to one model against its baseline:

    P(the answer wins the game) = σ(b0 + b1 x),   x = (len_answer − len_baseline) / (len_answer + len_baseline) / sd

The length-controlled win rate is σ(b0): what the judge would say of answers as long as the baseline's. So x is scaled
but never centred: with one model, a centred covariate would make b0 the log-odds at the *mean* length difference, which
is the plain win rate again. (ArenaHard centres over the games of all models; AlpacaEval 2, Dubois et al. 2024,
arXiv:2404.04475, sets the difference to 0, as here.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.evals.judging.pairs import PairGrade

Array = NDArray[np.float64]

RIDGE = 1e-6
"""Of the penalty RIDGE/2 · Σw · (b0² + b1²): where every game is won, or the lengths separate wins from losses, the
likelihood has no maximum and this gives it one (all won: about 1 − 1e-5); elsewhere it moves a win rate by less
than 1e-5."""
SMALLEST_SD = 1e-9
"""A covariate that spreads less is constant."""
LARGEST_STEPS = 200
PERCENTILES = (5.0, 95.0)
"""Of the bootstrap, as ArenaHard's."""


@dataclass(frozen=True)
class WinRate:
    """A win rate in [0, 1] with its bootstrap over questions; what is of the bootstrap is NaN for a single question."""

    value: float
    low: float
    high: float
    """The 5th and the 95th percentile."""
    stderr: float
    """Standard deviation over the resamples."""


@dataclass(frozen=True)
class LengthControl:
    """The win rate at equal length."""

    win_rate: WinRate
    coefficient: float
    """b1: log-odds per standard deviation of the relative length difference; 0 where the difference is constant and so
    left out (the win rate is the plain one then)."""
    mean_difference: float
    """Of (len_answer − len_baseline) / (len_answer + len_baseline). Where all differences are far from 0, the win rate
    at 0 is an extrapolation: its interval shows it."""


@dataclass(frozen=True)
class ArenaScores:
    """What the verdicts say of the model."""

    win_rate: WinRate
    """Σ w y / Σ w over all readable games."""
    length_control: LengthControl | None
    """None: no lengths were given."""
    consistency: float
    """Share of the questions with two readable games whose two orders agree on the winner, or on a tie; NaN without
    any."""
    questions: int
    """That have a score."""
    without_score: int
    """Questions of which no game can be read: excluded."""
    unparsable: int
    """Games that cannot be read, those of `without_score` included."""


def arena_scores(
    grades: Sequence[PairGrade],
    lengths: Mapping[str, tuple[int, int]] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ArenaScores:
    """Win rates with bootstrap intervals over questions.

    Args:
        grades: of `judge_pairs`.
        lengths: tokens of the answer and of the baseline's, by question id; None: no length control.
        resamples: of the bootstrap, at least 2.
        seed: of the resampling.

    Raises:
        DataError: a length is missing or negative.
        EvaluationError: no game can be read.
    """
    scored = [(grade, grade.score) for grade in grades if grade.score is not None]
    if not scored:
        raise EvaluationError(
            f"expected verdicts of the judge, got {2 * len(grades)} games of which none can be read; no score was "
            "written"
        )
    score: Array = np.array([value for _, value in scored], dtype=np.float64)
    weight: Array = np.array([grade.weight for grade, _ in scored], dtype=np.float64)
    counts = _resample(len(scored), resamples, seed)
    plain = (counts @ (weight * score)) / (counts @ weight)

    control = None
    if lengths is not None:
        difference = np.array([_relative_difference(grade.id, lengths) for grade, _ in scored])
        rate, coefficient = length_controlled(score, weight, difference)
        resampled = [length_controlled(score, weight * row, difference)[0] for row in counts]
        control = LengthControl(
            _win_rate(rate, np.array(resampled), len(scored)), coefficient, float(difference.mean())
        )

    agreements = [grade.consistent for grade in grades if grade.consistent is not None]
    return ArenaScores(
        win_rate=_win_rate(float(weight @ score / weight.sum()), plain, len(scored)),
        length_control=control,
        consistency=sum(agreements) / len(agreements) if agreements else float("nan"),
        questions=len(scored),
        without_score=len(grades) - len(scored),
        unparsable=sum(grade.unparsable for grade in grades),
    )


def length_controlled(score: Array, weight: Array, difference: Array) -> tuple[float, float]:
    """The win rate at equal length and b1, by Newton's method on the penalised likelihood.

    The games of a question share x, so that their sums w and w y are all that the likelihood needs of them.

    Args:
        score: (N,) Σ w y / Σ w of each question.
        weight: (N,) Σ w of each question; 0: it does not count.
        difference: (N,) (len_answer − len_baseline) / (len_answer + len_baseline).

    Raises:
        EvaluationError: no maximum was found.
    """
    used = weight > 0
    y, w, d = score[used], weight[used] / weight[used].sum(), difference[used]
    sd = float(d.std())
    varies = sd > SMALLEST_SD
    x = np.stack([np.ones_like(d), d / sd], axis=1) if varies else np.ones((len(d), 1))  # (N, 1 or 2)

    b = np.zeros(x.shape[1])
    value = _objective(b, x, y, w)
    for _ in range(LARGEST_STEPS):
        p = _sigmoid(x @ b)
        gradient = x.T @ (w * (p - y)) + RIDGE * b
        if np.abs(gradient).max() < 1e-11:
            return float(_sigmoid(b[:1])[0]), float(b[1]) if varies else 0.0
        hessian = (x * (w * p * (1.0 - p))[:, None]).T @ x + RIDGE * np.eye(len(b))
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while _objective(b - scale * step, x, y, w) > value + 1e-13 and scale > 1e-8:
            scale /= 2
        b = b - scale * step
        value = _objective(b, x, y, w)
    raise EvaluationError(
        f"length control found no maximum in {LARGEST_STEPS} steps over {len(y)} questions; no score was written"
    )


def _objective(b: Array, x: Array, y: Array, w: Array) -> float:
    """−log-likelihood with its penalty, weights summing to 1."""
    logits = x @ b
    return float(w @ (np.logaddexp(0.0, logits) - y * logits) + RIDGE / 2 * (b @ b))


def _sigmoid(logits: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -logits))


def _resample(count: int, resamples: int, seed: int) -> Array:
    """How often each question is drawn, (resamples, count)."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return drawn.astype(np.float64)


def _win_rate(value: float, resampled: Array, questions: int) -> WinRate:
    """`resampled` is (resamples,)."""
    if questions == 1:
        return WinRate(value, *[float("nan")] * 3)
    low, high = np.percentile(resampled, PERCENTILES)
    return WinRate(value, float(low), float(high), float(resampled.std(ddof=1)))


def _relative_difference(name: str, lengths: Mapping[str, tuple[int, int]]) -> float:
    if name not in lengths:
        raise DataError(f"expected the lengths of both answers to question {name!r}, got none; no score was written")
    answer, baseline = lengths[name]
    if answer < 0 or baseline < 0:
        raise DataError(
            f"expected lengths of at least 0 for question {name!r}, got {answer} and {baseline}; no score was written"
        )
    return (answer - baseline) / (answer + baseline) if answer + baseline else 0.0
