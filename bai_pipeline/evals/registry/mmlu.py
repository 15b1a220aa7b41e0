"""MMLU (Hendrycks et al. 2021, arXiv:2009.03300): four options compared by their likelihood, lm-eval's own tasks."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    Question,
    Splits,
    Task,
    by_group,
)
from bai_pipeline.evals.registry.lm_eval_tasks import few_shot, stock, worked_examples


class MmluRow(BaseModel):
    """A row of cais/mmlu."""

    question: Annotated[str, Field(min_length=1)]
    subject: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    choices: Annotated[list[str], Field(min_length=4, max_length=4)]
    answer: Annotated[int, Field(ge=0, le=3)]
    """Index of the right choice."""


def questions(splits: Splits) -> list[Question]:
    return [Question(f"{row['subject']}-{n}", row["subject"], row) for n, row in enumerate(splits["test"])]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    """A task a subject; the worked examples are the first of its split `dev`, as lm-eval takes them."""
    found = []
    for subject, indices in by_group(asked).items():
        rows = {"test": [asked[index].row for index in indices]}
        rows |= worked_examples(splits, "dev", "subject", subject, asking.shots)
        found.append(Task(stock(f"mmlu/default/mmlu_{subject}.yaml", rows, **few_shot(asking.shots)), tuple(indices)))
    return found


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """lm-eval's `acc`: whether the most likely option is the right one."""
    return Graded([(Grade(item.metrics["acc"], item.responses[0]),) for item in answered])


def _text(row: Row) -> str:
    return str(row["question"])


def _target(row: Row) -> str:
    return str(row["choices"][row["answer"]])


MMLU = Benchmark(
    name="mmlu",
    title="MMLU",
    kind="choice",
    metric="accuracy",
    source=Source(
        "cais/mmlu",
        {"test": "all/test-*.parquet", "dev": "all/dev-*.parquet"},
        licence="MIT",
    ),
    schema=MmluRow,
    asking=Asking(shots=5, chat=False, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=1),
    aggregation="over questions of 57 subjects",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    other_splits=("dev",),
)
