"""Free-form grading: an answer against reference answers, as MixEval's judge does (Ni et al. 2024, arXiv:2406.06565;
https://github.com/Psycoy/MixEval)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bai_pipeline.errors import DataError
from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.grades import Grade
from bai_pipeline.evals.judging.cache import Messages
from bai_pipeline.evals.judging.costs import CostReport
from bai_pipeline.evals.judging.judge import Judge, Verdict, check_ids, judge_all
from bai_pipeline.evals.judging.prompts import FREE_FORM_REMINDER, free_form_messages
from bai_pipeline.evals.judging.verdicts import read_score
from bai_pipeline.progress import Reporter


@dataclass(frozen=True)
class FreeFormItem:
    """A question, its reference answers (each right by itself) and the answer to grade, without its thinking."""

    id: str
    question: str
    references: Sequence[str]
    answer: str


@dataclass(frozen=True)
class FreeFormGrade:
    """The judge's score of one answer."""

    id: str
    score: float | None
    """In [0, 1]; None: unparsable, the question is not part of a mean."""
    requests: tuple[str, ...] = ()
    """What was asked, as names of the cache's files (without .json)."""

    @property
    def grade(self) -> Grade | None:
        """The row of the per-sample table; None where there is no score."""
        if self.score is None:
            return None
        return Grade(score=self.score, extracted=f"{self.score:g}", detail=f"the judge's score: {self.score:g}")


@dataclass(frozen=True)
class FreeFormResult:
    """The scores of all answers, in the order of the items."""

    grades: tuple[FreeFormGrade, ...]
    cost: CostReport = field(compare=False)
    """Of this run; the scores are the same whether they were cached or not."""

    @property
    def without_score(self) -> tuple[str, ...]:
        """Ids of the questions whose score cannot be read."""
        return tuple(grade.id for grade in self.grades if grade.score is None)

    @property
    def unparsable(self) -> int:
        """How many these are."""
        return len(self.without_score)


def judge_free_form(
    items: Sequence[FreeFormItem], settings: JudgeSettings, cache: Path, progress: Reporter
) -> FreeFormResult:
    """Grade every answer.

    Args:
        cache: directory of the judge's answers, made when needed; what it holds is not asked again.

    Raises:
        DataError: there are no items, ids occur twice, or an item has no reference; nothing was asked.
        BudgetExceeded: the budget was reached before the last score; what is done is cached.
        JudgeError: the server refused a request or stayed away; what is done is cached.
    """
    check_ids([item.id for item in items], "answers to grade")
    for item in items:
        if not item.references:
            raise DataError(f"expected a reference answer to question {item.id!r}, got none; the judge was not asked")
    tasks: list[Callable[[Judge], Verdict[float]]] = [
        partial(_grade, free_form_messages(item.question, item.references, item.answer), f"question {item.id!r}")
        for item in items
    ]
    verdicts, cost = judge_all(tasks, settings, cache, progress)
    grades = tuple(
        FreeFormGrade(item.id, verdict.value, verdict.requests) for item, verdict in zip(items, verdicts, strict=True)
    )
    return FreeFormResult(grades, cost)


def _grade(messages: Messages, what: str, judge: Judge) -> Verdict[float]:
    return judge.verdict(messages, what, read_score, FREE_FORM_REMINDER)
