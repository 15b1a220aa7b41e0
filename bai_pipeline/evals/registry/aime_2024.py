"""AIME 2024: thirty problems whose answers are integers from 0 to 999; the mean over several sampled responses."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.mathematics import grade_answer
from bai_pipeline.evals.registry.benchmark import Answered, Asking, Benchmark, Graded, Question, Splits, Task, graded_by
from bai_pipeline.evals.registry.lm_eval_tasks import graded_later, stock


class AimeRow(BaseModel):
    """A row of Maxwell-Jia/AIME_2024."""

    ID: Annotated[str, Field(min_length=1)]
    Problem: Annotated[str, Field(min_length=1)]
    Answer: int | str

    @field_validator("Answer")
    @classmethod
    def _integer(cls, value: int | str) -> int | str:
        if not 0 <= int(value) <= 999:
            raise ValueError("expected an integer from 0 to 999")
        return value


def questions(splits: Splits) -> list[Question]:
    return [Question(str(row["ID"]), "", row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    rows = {"train": [{**q.row, "Answer": int(q.row["Answer"])} for q in asked]}
    config = stock(
        "aime/aime24.yaml",
        rows,
        num_fewshot=asking.shots,
        **graded_later(asking),
        generation_kwargs=asking.generation(until=["Question:"]),
    )
    return [Task(config, tuple(range(len(asked))))]


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """Whether the last expression of the answer is the integer, by value."""
    return graded_by(_grade, answered)


def _grade(row: Row, answer: str) -> Grade:
    return grade_answer(answer, str(int(row["Answer"])))


def _text(row: Row) -> str:
    return str(row["Problem"])


def _target(row: Row) -> str:
    return str(row["Answer"])


AIME_2024 = Benchmark(
    name="aime_2024",
    title="AIME 2024",
    kind="generation",
    metric="accuracy (mean of the samples)",
    source=Source("Maxwell-Jia/AIME_2024", {"test": "*.parquet"}, licence="MIT"),
    schema=AimeRow,
    asking=Asking(shots=0, chat=True, samples=16, temperature=0.6, top_p=0.95, max_new_tokens=32768),
    aggregation="over 30 problems of the mean of their samples",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
)
