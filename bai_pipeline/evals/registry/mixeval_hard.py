"""MixEval-Hard (Ni et al. 2024, arXiv:2406.06565): free-form answers graded by a judge, options by their letter.

The questions' wording follows MixEval's protocol (docs/how_to_use_your_own_eval_code.md in github.com/Psycoy/MixEval).
Its own judge is gpt-3.5-turbo, which also reads the options out of the responses; here a rule does.
"""

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.letters import chosen_letter, listed_options, option_letters
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    Grades,
    Question,
    Splits,
    Task,
    Tools,
    cost_numbers,
    judge_of,
)
from bai_pipeline.evals.registry.lm_eval_tasks import generated
from bai_pipeline.evals.thinking import after_thinking

FREE_FORM = "free-form"
CHOICE = "single-choice"


class MixEvalRow(BaseModel):
    """A row of MixEval's free-form.json or multiple-choice.json."""

    id: str
    problem_type: Annotated[str, Field(pattern=f"^({FREE_FORM}|{CHOICE})$")]
    context: str | None = None
    prompt: Annotated[str, Field(min_length=1)]
    target: Annotated[list[int | str], Field(min_length=1)]
    """Reference answers, each right by itself; or the index of the right option."""
    options: list[str] | None = None
    benchmark_name: str

    @model_validator(mode="after")
    def _target_is_an_option(self) -> Self:
        if self.problem_type == CHOICE and not (
            self.options and all(0 <= int(target) < len(self.options) for target in self.target)
        ):
            raise ValueError("expected options, and indices of them as target")
        return self


def questions(splits: Splits) -> list[Question]:
    return [Question(f"{row['problem_type']}-{row['id']}", row["benchmark_name"], row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    return [generated("mixeval_hard", asked, [_prompt(question.row) for question in asked], asking)]


def grade(answered: Sequence[Answered], tools: Tools) -> Graded:
    """A letter by rule, any other answer by the judge; an answer whose grade cannot be read counts nowhere."""
    from bai_pipeline.evals.judging import FreeFormItem, judge_free_form

    items = [
        FreeFormItem(f"{item.question.id}/{n}", _text(item.question.row), _references(item), after_thinking(response))
        for item in answered
        if item.question.row["problem_type"] == FREE_FORM
        for n, response in enumerate(item.responses)
    ]
    judged: dict[str, Grade | None] = {}
    numbers: dict[str, float] = {}
    if items:
        settings, cache = judge_of(tools)
        result = judge_free_form(items, settings, cache, tools.report)
        judged = {grade.id: grade.grade for grade in result.grades}
        numbers = {"unparsable": result.unparsable, **cost_numbers(result.cost)}
    grades: Grades = []
    for item in answered:
        if item.question.row["problem_type"] == CHOICE:
            grades.append(tuple(_grade_choice(item.question.row, response) for response in item.responses))
        else:
            own = [judged[f"{item.question.id}/{n}"] for n in range(len(item.responses))]
            grades.append(tuple(grade for grade in own if grade) if all(own) else ())
    return Graded(grades, numbers)


def _grade_choice(row: Row, response: str) -> Grade:
    letter = chosen_letter(after_thinking(response), row["options"])
    letters = option_letters(len(row["options"]))
    return Grade(float(letter in [letters[int(target)] for target in row["target"]]), letter)


def _references(item: Answered) -> list[str]:
    return [str(target) for target in item.question.row["target"]]


def _prompt(row: Row) -> str:
    head = f"{row['context']}\n" if row.get("context") else ""
    if row["problem_type"] == FREE_FORM:
        return f"{head}Question: {row['prompt']}\nAnswer the question shortly."
    return (
        f"{head}{row['prompt']}\n{listed_options(row['options'])}\n"
        "Answer with the option's letter from the given choices directly."
    )


def _text(row: Row) -> str:
    return f"{row['context']}\n{row['prompt']}" if row.get("context") else str(row["prompt"])


def _target(row: Row) -> str:
    return "; ".join(str(target) for target in row["target"])


_PLACE = "https://raw.githubusercontent.com/Psycoy/MixEval/f6b7cf8921741cb22f0e463338ae7f0c44b7be11/mix_eval/data/mixeval-2024-08-11/mixeval-hard"

MIXEVAL_HARD = Benchmark(
    name="mixeval_hard",
    title="MixEval-Hard",
    kind="generation",
    metric="accuracy, free-form answers by the judge's score",
    source=Source(
        _PLACE, {"free_form": "free-form.json", "multiple_choice": "multiple-choice.json"}, licence="not stated"
    ),
    schema=MixEvalRow,
    main_splits=("free_form", "multiple_choice"),
    asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over all questions of both files",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    needs=("judge",),
    note="version 2024-08-11",
)
