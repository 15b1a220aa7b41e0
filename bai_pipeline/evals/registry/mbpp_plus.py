"""MBPP+ (Liu et al. 2023, EvalPlus, arXiv:2305.01210): programs graded by the tests of MBPP and by many more.

lm-eval 0.4.13 grades its own `mbpp_plus` by the three base tests alone; here a program has to pass both.
"""

import ast
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from bai_pipeline.errors import EvaluationError
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
    Tools,
)
from bai_pipeline.evals.registry.lm_eval_tasks import generated
from bai_pipeline.evals.thinking import after_thinking

PROMPT = """{text}

Your program has to pass tests such as this one:

```python
{test}
```

Write the whole program in Python, in one ```python block."""


class MbppPlusRow(BaseModel):
    """A row of evalplus/mbppplus."""

    task_id: int | str
    code: str = ""
    """A program that passes."""
    prompt: Annotated[str, Field(min_length=1)]
    test_imports: list[str]
    test_list: Annotated[list[str], Field(min_length=1)]
    """The base tests, an assertion each."""
    test: Annotated[str, Field(min_length=1)]
    """The further tests, as one program."""


def questions(splits: Splits) -> list[Question]:
    return [Question(str(row["task_id"]), "", row) for row in splits["test"]]


def tasks(asked: Sequence[Question], splits: Splits, asking: Asking) -> list[Task]:
    prompts = [PROMPT.format(text=q.row["prompt"].strip(), test=q.row["test_list"][0]) for q in asked]
    return [generated("mbpp_plus", asked, prompts, asking)]


def grade(answered: Sequence[Answered], tools: Tools) -> Graded:
    """Whether the program passes the base and the further tests; the readings give the base tests' share as well."""
    from bai_pipeline.evals.code import Submission, extract_code, grade_programs

    if tools.isolation is None:
        raise EvaluationError("mbpp_plus runs untrusted programs; expected an isolation for them, got none")
    programs = [
        Submission(extract_code(after_thinking(response)), _suites(item.question.row), _names(item.question.row))
        for item in answered
        for response in item.responses
    ]
    verdicts = iter(grade_programs(programs, isolation=tools.isolation, workers=tools.workers))
    codes = iter(submission.program for submission in programs)
    grades, base_passed = [], 0
    for item in answered:
        own = []
        for _ in item.responses:
            verdict = next(verdicts)
            base, plus = verdict["base"], verdict["plus"]
            base_passed += base.passed
            score = float(base.passed and plus.passed)
            detail = f"base {base.reason}, plus {plus.reason}"
            if failed := [v.detail for v in (base, plus) if not v.passed and v.detail]:
                detail += f": {failed[0]}"
            own.append(Grade(score, next(codes) or None, detail=detail))
        grades.append(tuple(own))
    return Graded(grades, {"base": base_passed / len(programs)})


def _names(row: Row) -> set[str] | None:
    """What the reference program defines: a task may ask for a function that is called like a built-in one."""
    try:
        statements = ast.parse(row.get("code") or "").body
    except SyntaxError:
        return None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {statement.name for statement in statements if isinstance(statement, kinds)} or None


def _suites(row: Row) -> dict[str, str]:
    imports = "\n".join(row["test_imports"])
    return {"base": "\n".join([imports, *row["test_list"]]), "plus": f"{imports}\n{row['test']}"}


def _text(row: Row) -> str:
    return str(row["prompt"])


def _target(row: Row) -> str:
    return "\n".join(row["test_list"])


MBPP_PLUS = Benchmark(
    name="mbpp_plus",
    title="MBPP+",
    kind="generation",
    metric="pass@1, base and further tests",
    source=Source("evalplus/mbppplus", {"test": "data/test-*.parquet"}, licence="Apache-2.0"),
    schema=MbppPlusRow,
    asking=Asking(shots=0, chat=True, samples=1, temperature=0.0, top_p=1.0, max_new_tokens=32768),
    aggregation="over problems",
    questions=questions,
    text=_text,
    target=_target,
    tasks=tasks,
    grade=grade,
    needs=("code",),
)
