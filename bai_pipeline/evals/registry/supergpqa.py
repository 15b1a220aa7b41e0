"""SuperGPQA (M-A-P 2025, arXiv:2502.14739): four to ten options over 285 graduate disciplines, without examples."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.letters import letter_grade, listed_options
from bai_pipeline.evals.registry.benchmark import Answered, Asking, Benchmark, Graded, Question, Splits, Task, graded_by
from bai_pipeline.evals.registry.lm_eval_tasks import generated

PROMPT = """Answer this multiple-choice question; exactly one option is right. Reason first, then end with a line that \
reads "Answer: X", where X is the letter of the option.

{question}

{options}"""


class SuperGpqaRow(BaseModel):
    """A row of m-a-p/SuperGPQA."""

    uuid: str
    question: Annotated[str, Field(min_length=1)]
    options: Annotated[list[str], Field(min_length=4, max_length=10)]
    answer_letter: Annotated[str, Field(pattern=r"^[A-J]$")]
    discipline: str
    field: str
    subfield: str
    difficulty: str


def questions(splits: Splits) -> list[Question]:
    return [Question(row["uuid"], f"{row['discipline']}/{row['field']}", row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    prompts = [
        PROMPT.format(question=q.row["question"].strip(), options=listed_options(q.row["options"])) for q in asked
    ]
    return [generated("supergpqa", asked, prompts, asking)]


def grade(answered: Sequence[Answered], tools: object) -> Graded:
    """Whether the letter that the answer names is the right one."""
    return graded_by(_grade, answered)


def _grade(row: Row, answer: str) -> Grade:
    return letter_grade(answer, row["options"], row["answer_letter"], f"difficulty {row['difficulty']}")


def _text(row: Row) -> str:
    return str(row["question"])


def _target(row: Row) -> str:
    return str(row["answer_letter"])


SUPERGPQA = Benchmark(
    name="supergpqa",
    title="SuperGPQA",
    kind="generation",
    metric="accuracy",
    source=Source("m-a-p/SuperGPQA", {"test": "SuperGPQA-all.jsonl"}, licence="ODC-BY"),
    schema=SuperGpqaRow,
    asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over questions of 72 fields",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
)
