"""Pairwise judging: an answer against a baseline's, in both orders (ArenaHard, Li et al. 2024, arXiv:2406.11939;
https://github.com/lmarena/arena-hard-auto).

A game is one verdict on one order. It counts y = 1 (the answer wins), 0.5 (tie) or 0 (loss), with weight w = 3 where
the verdict is ">>" and 1 elsewhere. A question's score is Σ w y / Σ w over its readable games. ArenaHard drops a
question when one game is unreadable; here the other game stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.grades import Grade
from bai_pipeline.evals.judging.cache import Messages
from bai_pipeline.evals.judging.costs import CostReport
from bai_pipeline.evals.judging.judge import Judge, Verdict, check_ids, judge_all
from bai_pipeline.evals.judging.prompts import PAIR_REMINDER, pair_messages
from bai_pipeline.evals.judging.verdicts import read_pair_label
from bai_pipeline.progress import Reporter

OUTCOMES = {"A>>B": (1.0, 3.0), "A>B": (1.0, 1.0), "A=B": (0.5, 1.0), "B>A": (0.0, 1.0), "B>>A": (0.0, 3.0)}
"""Label: what A scores, and the weight of the game."""


@dataclass(frozen=True)
class PairQuestion:
    """A question with the two answers that are compared, both without their thinking."""

    id: str
    question: str
    answer: str
    """Of the model that is evaluated."""
    baseline: str


@dataclass(frozen=True)
class PairGrade:
    """The two games of a question."""

    id: str
    first: str | None
    """Verdict where the answer was A; None: unparsable."""
    second: str | None
    """Verdict where the answer was B; None: unparsable."""
    requests: tuple[str, ...] = ()
    """What was asked, as names of the cache's files (without .json)."""

    @property
    def games(self) -> list[tuple[float, float]]:
        """(y, w) of the readable games."""
        games = [OUTCOMES[self.first]] if self.first is not None else []
        if self.second is not None:
            baseline, weight = OUTCOMES[self.second]
            games.append((1.0 - baseline, weight))
        return games

    @property
    def weight(self) -> float:
        """Σ w; 0 where no game can be read."""
        return sum(weight for _, weight in self.games)

    @property
    def score(self) -> float | None:
        """Σ w y / Σ w; None where no game can be read: the question is not part of a mean."""
        return sum(y * weight for y, weight in self.games) / self.weight if self.games else None

    @property
    def unparsable(self) -> int:
        """Games that cannot be read."""
        return 2 - len(self.games)

    @property
    def consistent(self) -> bool | None:
        """Both orders have the same winner, or both are ties; None unless both can be read."""
        if self.unparsable:
            return None
        (first, _), (second, _) = self.games
        return first == second

    @property
    def grade(self) -> Grade | None:
        """The row of the per-sample table; None where there is no score."""
        if self.score is None:
            return None
        first, second = (label or "unparsable" for label in (self.first, self.second))
        return Grade(
            score=self.score,
            extracted=f"{first}, {second}",
            weight=self.weight,
            detail=f"verdict with the answer as A: {first}; as B: {second}",
        )


@dataclass(frozen=True)
class PairwiseResult:
    """The verdicts on all questions, in their order."""

    grades: tuple[PairGrade, ...]
    cost: CostReport = field(compare=False)
    """Of this run; the verdicts are the same whether they were cached or not."""

    @property
    def unparsable(self) -> int:
        """Games that cannot be read."""
        return sum(grade.unparsable for grade in self.grades)

    @property
    def without_score(self) -> tuple[str, ...]:
        """Ids of the questions of which no game can be read."""
        return tuple(grade.id for grade in self.grades if grade.score is None)


def judge_pairs(
    questions: Sequence[PairQuestion], settings: JudgeSettings, cache: Path, progress: Reporter
) -> PairwiseResult:
    """Judge every question in both orders.

    Args:
        cache: directory of the judge's answers, made when needed; what it holds is not asked again.

    Raises:
        DataError: there are no questions, or ids occur twice; nothing was asked.
        BudgetExceeded: the budget was reached before the last verdict; what is done is cached.
        JudgeError: the server refused a request or stayed away; what is done is cached.
    """
    check_ids([question.id for question in questions], "questions to judge")
    games: list[Callable[[Judge], Verdict[str]]] = []
    for question in questions:
        for place, first, second in (
            ("A", question.answer, question.baseline),
            ("B", question.baseline, question.answer),
        ):
            messages = pair_messages(question.question, first, second)
            games.append(partial(_play, messages, f"question {question.id!r} with the answer as {place}"))
    verdicts, cost = judge_all(games, settings, cache, progress)
    grades = tuple(
        PairGrade(question.id, first.value, second.value, (*first.requests, *second.requests))
        for question, first, second in zip(questions, verdicts[::2], verdicts[1::2], strict=True)
    )
    return PairwiseResult(grades, cost)


def _play(messages: Messages, what: str, judge: Judge) -> Verdict[str]:
    return judge.verdict(messages, what, read_pair_label, PAIR_REMINDER)
