"""What a benchmark is: where its data comes from, how it asks, and how its responses are graded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.thinking import after_thinking
from bai_pipeline.progress import Reporter, SilentReporter

if TYPE_CHECKING:
    from bai_pipeline.evals.code import Isolation
    from bai_pipeline.evals.judging import CostReport, JudgeSettings

Splits = Mapping[str, Sequence[Row]]
Need = Literal["judge", "code"]
Kind = Literal["choice", "generation"]


class NotRunError(EvaluationError):
    """A benchmark cannot be run here; the message is the reason that the tables give for the hole."""


@dataclass(frozen=True)
class Asking:
    """How a benchmark is asked, after the study's overrides."""

    shots: int
    """Worked examples before each question."""
    chat: bool
    """Whether prompts go through the checkpoint's chat template."""
    samples: int
    """Responses to each question; its score is their mean."""
    temperature: float
    """0 is greedy."""
    top_p: float
    max_new_tokens: int

    def generation(self, until: Sequence[str] = ()) -> dict[str, Any]:
        """lm-eval's `generation_kwargs`. A chat ends by itself: `until`, for text that goes on, is left out there."""
        return {
            "until": [] if self.chat else list(until),
            "do_sample": self.temperature > 0,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_gen_toks": self.max_new_tokens,
        }


@dataclass(frozen=True)
class Question:
    """One question of a benchmark."""

    id: str
    group: str
    """The subject, or "category/task"; "" where there is none."""
    row: Row
    weight: float = 1.0
    """In the benchmark's mean."""


@dataclass(frozen=True)
class Task:
    """A task of lm-eval over some of the questions."""

    config: dict[str, Any]
    questions: tuple[int, ...]
    """Which question each document of the task is, in the task's order."""


@dataclass(frozen=True)
class Answered:
    """A question and what the model made of it."""

    question: Question
    prompt: str
    """As the model got it, after the chat template."""
    responses: tuple[str, ...]
    """(samples,); the chosen option where options are compared by their likelihood."""
    tokens: tuple[int, ...]
    """(samples,), tokens of each response."""
    target: str
    metrics: Mapping[str, float]
    """What lm-eval's own metrics say."""


@dataclass(frozen=True)
class Tools:
    """What grading may need beside the responses."""

    judge: "JudgeSettings | None" = None
    judge_cache: Path | None = None
    isolation: "Isolation | None" = None
    """Where untrusted programs run; None: nowhere."""
    workers: int = 2
    """Programs graded at a time."""
    support: Splits = field(default_factory=dict)
    """The benchmark's other splits (a baseline's answers)."""
    report: Reporter = field(default_factory=SilentReporter)


def judge_of(tools: Tools) -> "tuple[JudgeSettings, Path]":
    """The judge's settings and the directory of its answers.

    Raises:
        NotRunError: there is no judge.
    """
    if tools.judge is None or tools.judge_cache is None:
        raise NotRunError("no judge is configured (evals.judge)")
    return tools.judge, tools.judge_cache


def cost_numbers(cost: "CostReport") -> dict[str, float]:
    """What judging cost, as readings."""
    return {f"judge_{name}": float(value) for name, value in asdict(cost).items()}


Grades = list[tuple[Grade, ...]]
"""For each question the grade of each of its responses; an empty tuple where nobody could tell, which is counted."""


@dataclass(frozen=True)
class Graded:
    """What grading a benchmark gave."""

    grades: Grades
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Readings beside the score, for the metadata."""


def graded_by(grade: Callable[[Row, str], Grade], answered: Sequence[Answered]) -> Graded:
    """Every response by itself.

    Args:
        grade: of a question's row and what a response answers, its thinking part removed.
    """
    return Graded(
        [tuple(grade(item.question.row, after_thinking(response)) for response in item.responses) for item in answered]
    )


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the registry; docs/guide/evaluation.md explains the fields to users."""

    name: str
    title: str
    """As the paper's tables call it."""
    kind: Kind
    metric: str
    source: Source | None
    """None: the embedded world makes it."""
    schema: type[BaseModel]
    """Of a row of the split `test`."""
    asking: Asking
    aggregation: str
    """In words: what the score is a mean over."""
    questions: Callable[[Splits], list[Question]]
    text: Callable[[Row], str]
    """What a row asks, for whoever looks for it in training data."""
    target: Callable[[Row], str]
    """The reference answer, for the reader of the log; "" where there is none."""
    tasks: Callable[[Sequence[Question], Splits, Asking], list[Task]]
    grade: Callable[[Sequence[Answered], Tools], Graded]
    needs: tuple[Need, ...] = ()
    main_splits: tuple[str, ...] = ("test",)
    """Whose rows are the questions; all have to be there."""
    other_splits: tuple[str, ...] = ()
    """Read where they are there: worked examples, a baseline's answers."""
    note: str = ""


def by_group(questions: Sequence[Question]) -> dict[str, list[int]]:
    """Indices of the questions of each group, groups in the order of their first question."""
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.group, []).append(index)
    return groups
