"""Paired differences between the rows of a table: which models differ on the questions that both answered.

The input is one line per row, seed, benchmark and question (`QUESTION_COLUMNS`; repeats averaged, see `weighted`). For
every two rows, each benchmark that both ran, and the average over the benchmarks:

- difference: of the weighted means over the shared questions, each the mean over the row's seeds.
- stderr: from the influences of the same questions subtracted (Miller 2024, arXiv:2411.00640), and, where a row has
  several seeds, from the spread of its seeds.
- p by McNemar's exact test where it applies: one seed each, scores 0 or 1, equal weights. Under no difference each of
  the b + c questions on which the rows disagree falls either way with probability 1/2 (McNemar 1947).
- p by a paired bootstrap elsewhere, 2 min(P(d* ≤ 0), P(d* ≥ 0)) with one added to each count, at most 1.
- p_holm: p corrected for all comparisons of the table together (Holm 1979).

The bootstrap draws n − 1 of the n questions with replacement, so that its variance is stderr² and not (n−1)/n of it
(Rao and Wu 1988), and averages their influences; one draw serves every row. Two or three seeds are too few to be drawn
the same way: three above three others happens by chance one time in ten, and then no resample crosses zero. A row's
seeds therefore add a normal deviate whose variance is estimated as in a crossed design with random questions and seeds,

    V = max(0, s² − r² / n) / S,

s² the variance between the S seeds' scores and r² that of a seed's influences around their mean over seeds (the noise
of single answers, which the questions' term holds already). All deviations are then widened to Student's t of the
degrees of freedom of the sum (Satterthwaite 1946). With one seed the spread of seeds is unknown and left out: the
comparison is then between two models, not between two ways to train.

p is never below 2^(1−k), k the number of questions on which the rows' scores differ: what the sign of k differences can
show at most, however equal these are in size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan, nan, sqrt

import numpy as np
import pandas as pd

from bai_pipeline.errors import DataError
from bai_pipeline.evals.differences import ZERO, Answers, Difference, answers_of, average, differences, widened
from bai_pipeline.evals.weighted import Floats

QUESTION_COLUMNS = ("row", "seed", "benchmark", "id", "score", "weight")
AVERAGE = "average"
MCNEMAR = "McNemar"
BOOTSTRAP = "bootstrap"
LEVEL = 0.05
RESAMPLES = 10_000
RESAMPLES_PER_COMPARISON = 100
"""Holm multiplies the smallest p by the number m of comparisons, and the bootstrap's is 2 / (resamples + 1): with 100 m
resamples that product is 0.02, with fewer than 40 m nothing could ever be significant."""

COLUMNS = {
    "row": "str",
    "other": "str",
    "benchmark": "str",
    "n": "int64",
    "left_out": "int64",
    "better": "int64",
    "worse": "int64",
    "score": "float64",
    "other_score": "float64",
    "difference": "float64",
    "stderr": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "method": "str",
    "p_holm": "float64",
}


@dataclass(frozen=True)
class Standing:
    """Who is ahead on a benchmark."""

    top: str
    """The row with the highest score."""
    rivals: tuple[str, ...]
    """Rows whose difference to the top one is not significant, or that share no question with it."""
    others: int
    """Rows beside the top one."""

    @property
    def best(self) -> str | None:
        """The top row where it differs from every other, else None."""
        return None if self.rivals else self.top


def paired_comparisons(
    questions: pd.DataFrame, rows: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Every two rows on every benchmark that both ran, and on the average over all benchmarks.

    The average is compared where both rows ran every benchmark that any of the rows ran, each with the same seeds; with
    one benchmark it is that benchmark and has no line of its own. Its questions' resamples are independent over the
    benchmarks; its seeds' spread is that of the seeds' averages. What two rows give on a benchmark depends neither
    on the order of the lines nor on other rows and benchmarks, save for p_holm and the number of resamples.

    Args:
        questions: columns row, seed, benchmark, id, score, weight.
        rows: those to compare, in order; default all, in the order of the lines.
        resamples: of the bootstrap, at least: there are more where many comparisons need them for Holm's correction.
        seed: of the bootstrap, at least 0.

    Returns:
        row, other, benchmark ("average" for the average), n (questions that all seeds of both answered), left_out
        (questions that only some did), better and worse (questions with a higher and a lower score of `row`), score
        and other_score (on the n questions), difference (row minus other), stderr (NaN at one question), low and high
        (95 % percentile interval of the bootstrap), p, method, p_holm.

    Raises:
        DataError: a column is absent, a question is there twice, or a score or weight is no valid one.
    """
    checked = _checked(questions)
    order = list(dict.fromkeys(checked["row"] if rows is None else rows))
    answers = answers_of(checked[checked["row"].isin(order)])
    whole = _rows_with_average(answers, order)
    pairs = list(combinations(order, 2))
    count = sum(row in found and other in found for found in answers.values() for row, other in pairs)
    count += sum(row in whole and other in whole for row, other in pairs)
    draws = max(resamples, RESAMPLES_PER_COMPARISON * count)

    lines: list[dict[str, object]] = []
    parts: dict[tuple[str, str], list[Difference]] = {pair: [] for pair in combinations(whole, 2)}
    sums: dict[tuple[str, str], Floats] = {}
    for benchmark, found in answers.items():
        both = [pair for pair in pairs if pair[0] in found and pair[1] in found]
        for pair, difference, deviations in differences(benchmark, found, both, draws, seed):
            lines.append(_line(pair, benchmark, difference, deviations, seed))
            if pair in parts:
                parts[pair].append(difference)
                sums[pair] = sums[pair] + deviations if pair in sums else deviations
    for pair, of_benchmarks in parts.items():
        if len(of_benchmarks) == len(answers):
            deviations = sums.pop(pair) / len(of_benchmarks)
            lines.append(_line(pair, AVERAGE, average(of_benchmarks), deviations, seed))

    table = pd.DataFrame(lines, columns=list(COLUMNS))
    table["p_holm"] = holm(table["p"].tolist())
    return table.astype(COLUMNS)


def best_rows(comparisons: pd.DataFrame, level: float = LEVEL) -> dict[str, Standing]:
    """For each benchmark that several rows ran, and the average, who is ahead and of whom that cannot be said.

    Args:
        comparisons: made by `paired_comparisons`.
        level: of p_holm, at most which a difference is significant.
    """
    return {
        str(benchmark): _standing(group, level) for benchmark, group in comparisons.groupby("benchmark", sort=False)
    }


def mcnemar(better: int, worse: int) -> float:
    """The two-sided exact p of `better` against `worse` discordant questions: binomial, probability 1/2."""
    total = better + worse
    term = tail = 1
    for k in range(1, min(better, worse) + 1):
        term = term * (total - k + 1) // k
        tail += term
    # Integers: 2^-total is below the smallest float at 1,075 discordant questions.
    return 1.0 if 2 * tail >= 1 << total else 2 * tail / (1 << total)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m times m − i + 1, then made monotone, at most 1."""
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def _checked(questions: pd.DataFrame) -> pd.DataFrame:
    absent = [c for c in QUESTION_COLUMNS if c not in questions.columns]
    if absent:
        raise DataError(
            f"expected questions with columns {', '.join(QUESTION_COLUMNS)}, {', '.join(absent)} absent; nothing was "
            "compared"
        )
    table = questions.astype({"score": "float64", "weight": "float64"})
    twice = table.duplicated(["row", "seed", "benchmark", "id"])
    valid = np.isfinite(table["score"]) & np.isfinite(table["weight"]) & (table["weight"] >= 0)
    for wrong, expected in ((twice, "one line per question"), (~valid, "finite scores and weights of 0 or more")):
        if wrong.any():
            first = table[wrong].iloc[0]
            raise DataError(
                f"expected {expected}, got otherwise for {first['row']}, seed {first['seed']}, {first['benchmark']}, "
                f"question {first['id']!r}; nothing was compared"
            )
    return table


def _rows_with_average(answers: Mapping[str, Mapping[str, Answers]], rows: Sequence[str]) -> list[str]:
    """Rows that ran every one of several benchmarks with the same seeds."""
    if len(answers) < 2:
        return []
    return [
        row
        for row in rows
        if all(row in found for found in answers.values())
        and len({found[row].seeds for found in answers.values()}) == 1
    ]


def _line(pair: tuple[str, str], benchmark: str, found: Difference, deviations: Floats, seed: int) -> dict[str, object]:
    distance = found.row.score - found.other.score
    total = found.variance + (found.row.variance + found.other.variance)
    line: dict[str, object] = {
        "row": pair[0],
        "other": pair[1],
        "benchmark": benchmark,
        "n": found.n,
        "left_out": found.left_out,
        "better": found.better,
        "worse": found.worse,
        "score": found.row.score,
        "other_score": found.other.score,
        "difference": distance,
        "stderr": sqrt(total),
        "method": MCNEMAR if found.exact else BOOTSTRAP,
    }
    if isnan(total):
        return line | {"low": nan, "high": nan, "p": 1.0}
    resampled = distance + widened(found, total, deviations, benchmark, seed)
    low, high = np.quantile(resampled, [0.025, 0.975])
    line |= {"low": float(low), "high": float(high)}
    if found.exact:
        return line | {"p": mcnemar(found.better, found.worse)}
    fewer = min(int((resampled <= ZERO).sum()), int((resampled >= -ZERO).sum()))
    floor = 2.0 ** (1 - found.better - found.worse)
    return line | {"p": min(1.0, max(floor, 2 * (fewer + 1) / (len(resampled) + 1)))}


def _standing(group: pd.DataFrame, level: float) -> Standing:
    sides = [group[["row", "score"]], group[["other", "other_score"]].set_axis(["row", "score"], axis=1)]
    scores = pd.concat(sides).groupby("row", sort=False)["score"].mean()
    top = str(scores.idxmax())
    won = group[(group["row"] == top) & (group["difference"] > 0) & (group["p_holm"] <= level)]
    lost = group[(group["other"] == top) & (group["difference"] < 0) & (group["p_holm"] <= level)]
    beaten = {*won["other"], *lost["row"]}
    rivals = tuple(str(row) for row in scores.index if row != top and row not in beaten)
    return Standing(top, rivals, len(scores) - 1)
