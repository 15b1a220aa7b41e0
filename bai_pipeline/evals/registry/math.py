"""MATH (Hendrycks et al. 2021, arXiv:2103.03874): lm-eval's own prompts, answers compared by math-verify."""

from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import BaseModel, Field, field_validator

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.mathematics import grade_answer
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
from bai_pipeline.evals.registry.lm_eval_tasks import graded_later, stock
from bai_pipeline.mathematics import boxed

TASKS: Final = {
    "Algebra": "algebra",
    "Counting & Probability": "counting_and_prob",
    "Geometry": "geometry",
    "Intermediate Algebra": "intermediate_algebra",
    "Number Theory": "num_theory",
    "Prealgebra": "prealgebra",
    "Precalculus": "precalc",
}
"""lm-eval's name of each subject."""


class MathRow(BaseModel):
    """A row of EleutherAI/hendrycks_math."""

    problem: Annotated[str, Field(min_length=1)]
    level: str
    type: Annotated[str, Field(pattern="^(" + "|".join(TASKS) + ")$")]
    solution: str
    """Ends in the boxed answer."""

    @field_validator("solution")
    @classmethod
    def _has_answer(cls, value: str) -> str:
        if not boxed(value):
            raise ValueError("expected a boxed answer")
        return value


def questions(splits: Splits) -> list[Question]:
    return [Question(f"{TASKS[row['type']]}-{n}", row["type"], row) for n, row in enumerate(splits["test"])]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    """A task a subject; the worked examples are the four of Minerva (arXiv:2206.14858), which lm-eval brings."""
    found = []
    for subject, indices in by_group(asked).items():
        rows = [asked[index].row for index in indices]
        config = stock(
            f"minerva_math/minerva_math_{TASKS[subject]}.yaml",
            {"test": rows},
            training_split=None,
            num_fewshot=asking.shots,
            **graded_later(asking),
            generation_kwargs=asking.generation(until=["Problem:"]),
        )
        found.append(Task(config, tuple(indices)))
    return found


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """Whether the last expression of the answer equals that of the solution, by value."""
    return graded_by(_grade, answered)


def _grade(row: Row, answer: str) -> Grade:
    return grade_answer(answer, str(boxed(row["solution"])))


def _text(row: Row) -> str:
    return str(row["problem"])


def _target(row: Row) -> str:
    return str(boxed(row["solution"]))


MATH = Benchmark(
    name="math",
    title="MATH",
    kind="generation",
    metric="accuracy",
    source=Source("EleutherAI/hendrycks_math", {"test": "*/test-*.parquet"}, licence="MIT"),
    schema=MathRow,
    asking=Asking(shots=4, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over problems of 7 subjects",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
)
