"""Problems with one short final answer: those of the embedded world, and brought ones of the same schema."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.registry.benchmark import Answered, Asking, Benchmark, Graded, Question, Splits, Task
from bai_pipeline.evals.registry.lm_eval_tasks import generated
from bai_pipeline.synthetic.tasks import can_be_right, extract_answer


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["user"]
    content: str


class HeldOutRow(BaseModel):
    """A problem."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    messages: tuple[Message] | list[Message]
    """The conversation that the model answers: exactly one user message, equal to `prompt`."""
    prompt: str
    answer: str
    """The final answer, one digit: compared exactly with the one extracted from the response."""

    @field_validator("answer")
    @classmethod
    def _one_digit(cls, value: str) -> str:
        if not can_be_right(value):
            raise ValueError("expected one digit, as every response's answer is")
        return value

    @model_validator(mode="after")
    def _prompt_is_message(self) -> Self:
        if len(self.messages) != 1 or self.messages[0].content != self.prompt:
            raise ValueError("expected prompt to be the one user message")
        return self


def questions(splits: Splits) -> list[Question]:
    return [Question(row["id"], "", row) for row in splits["test"]]


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """Exact match of the final answer."""
    return Graded([tuple(_grade(item, response) for response in item.responses) for item in answered])


def _grade(item: Answered, response: str) -> Grade:
    found = extract_answer(response)
    return Grade(float(found == item.question.row["answer"]), found)


def held_out(name: str) -> Benchmark:
    """The benchmark of this name: "held_out_<task>" of the embedded world, or one that a study brings."""

    def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
        return [generated(name, asked, [q.row["prompt"] for q in asked], asking)]

    return Benchmark(
        name=name,
        title=name,
        kind="generation",
        metric="exact_match",
        source=None,
        schema=HeldOutRow,
        asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=512),
        aggregation="over problems",
        questions=questions,
        text=_text,
        target=_target,
        tasks=tasks,
        grade=grade,
    )


def _text(row: Row) -> str:
    return str(row["prompt"])


def _target(row: Row) -> str:
    return str(row["answer"])
