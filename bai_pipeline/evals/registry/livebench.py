"""LiveBench (White et al. 2024, arXiv:2406.19314): six categories graded by its own rules, without a judge."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, model_validator

from bai_pipeline.evals.data import Source
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench import RELEASE, in_release, weights
from bai_pipeline.evals.livebench.tasks import row_faults
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    Question,
    Splits,
    Task,
    Tools,
)
from bai_pipeline.evals.registry.lm_eval_tasks import generated
from bai_pipeline.evals.thinking import after_thinking

CATEGORIES = ("math", "reasoning", "language", "data_analysis", "instruction_following", "coding")


class LiveBenchRow(BaseModel):
    """A row of livebench/math and its like; further fields by task, see `livebench`."""

    model_config = ConfigDict(extra="allow")

    question_id: str
    category: str
    task: str
    turns: list[str]

    @model_validator(mode="before")
    @classmethod
    def _follows_task(cls, row: object) -> object:
        if isinstance(row, dict) and (faults := list(row_faults(row))):
            raise ValueError("; ".join(f"{f.field}: expected {f.expected}, got {f.found}" for f in faults))
        return row


def questions(splits: Splits) -> list[Question]:
    """Those of the release, each with its weight in LiveBench's mean of means."""
    rows = [row for row in splits["test"] if in_release(row, RELEASE)]
    return [
        Question(row["question_id"], f"{row['category']}/{row['task']}", row, weight)
        for row, weight in zip(rows, weights(rows), strict=True)
    ]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    return [generated("livebench", asked, [_text(question.row) for question in asked], asking)]


def grade(answered: Sequence[Answered], tools: Tools) -> Graded:
    """By the rule of each question's task, several at a time: programs and formulas have processes of their own."""
    from bai_pipeline.evals.livebench import grade as grade_response
    from bai_pipeline.evals.programs import runner

    run_code = runner(tools.isolation) if tools.isolation is not None else None

    def graded(item: Answered) -> tuple[Grade, ...]:
        return tuple(grade_response(item.question.row, after_thinking(r), run_code) for r in item.responses)

    with ThreadPoolExecutor(tools.workers) as pool:
        return Graded(list(pool.map(graded, answered)))


def _text(row: Row) -> str:
    return str(row["turns"][0])


def _target(row: Row) -> str:
    return str(row.get("ground_truth") or "")


LIVEBENCH = Benchmark(
    name="livebench",
    title="LiveBench",
    kind="generation",
    metric="score by LiveBench's rules",
    source=Source(
        "livebench/math",
        {category: f"hf://datasets/livebench/{category}/data/test-*.parquet" for category in CATEGORIES},
        licence="not stated (its code: Apache-2.0)",
    ),
    schema=LiveBenchRow,
    main_splits=CATEGORIES,
    asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over 6 categories of the mean of their tasks",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    needs=("code",),
    note=f"release {RELEASE}",
)
