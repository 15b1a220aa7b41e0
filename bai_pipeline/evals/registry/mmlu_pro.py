"""MMLU-Pro (Wang et al. 2024, arXiv:2406.01574): up to ten options, worked out first; lm-eval's own tasks."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.letters import letter_grade
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    Question,
    Splits,
    Task,
    by_group,
    graded_by,
)
from bai_pipeline.evals.registry.lm_eval_tasks import few_shot, graded_later, stock, worked_examples


class MmluProRow(BaseModel):
    """A row of TIGER-Lab/MMLU-Pro."""

    question_id: int
    question: Annotated[str, Field(min_length=1)]
    options: Annotated[list[str], Field(min_length=2, max_length=10)]
    answer: Annotated[str, Field(pattern=r"^[A-J]$")]
    category: str
    cot_content: str
    """A worked answer, in the split `validation` only."""


def questions(splits: Splits) -> list[Question]:
    return [Question(str(row["question_id"]), row["category"], row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    """A task a category; the worked examples are the first of its split `validation`."""
    found = []
    for category, indices in by_group(asked).items():
        rows = {"test": [asked[index].row for index in indices]}
        rows |= worked_examples(splits, "validation", "category", category, asking.shots)
        config = stock(
            f"mmlu_pro/mmlu_pro_{category.replace(' ', '_')}.yaml",
            rows,
            **few_shot(asking.shots),
            **graded_later(asking),
            generation_kwargs=asking.generation(until=["Question:"]),
        )
        found.append(Task(config, tuple(indices)))
    return found


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """Whether the letter that the answer names is the right one."""
    return graded_by(_grade, answered)


def _grade(row: Row, answer: str) -> Grade:
    return letter_grade(answer, row["options"], row["answer"])


def _text(row: Row) -> str:
    return str(row["question"])


def _target(row: Row) -> str:
    return str(row["answer"])


MMLU_PRO = Benchmark(
    name="mmlu_pro",
    title="MMLU-Pro",
    kind="generation",
    metric="accuracy",
    source=Source(
        "TIGER-Lab/MMLU-Pro",
        {"test": "data/test-*.parquet", "validation": "data/validation-*.parquet"},
        licence="MIT",
    ),
    schema=MmluProRow,
    asking=Asking(shots=5, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over questions of 14 categories",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    other_splits=("validation",),
)
