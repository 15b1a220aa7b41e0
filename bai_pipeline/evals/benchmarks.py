"""Local benchmarks: JSONL files of problems with one short final answer each."""

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bai_pipeline.errors import DataError
from bai_pipeline.synthetic.tasks import can_be_right


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["user"]
    content: str


class BenchmarkProblem(BaseModel):
    """One line of `<benchmark>.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    messages: tuple[Message]
    """The conversation that the model answers: exactly one user message, equal to `prompt`."""
    prompt: str
    answer: str
    """The final answer, one digit: compared exactly with the one extracted from the response."""


def benchmark_path(data: Path, benchmark: str) -> Path:
    """Where the problems of `benchmark` are in the directory `data`."""
    return data / f"{benchmark}.jsonl"


def read_benchmark(path: Path) -> list[BenchmarkProblem]:
    """Read and check a benchmark file.

    Raises:
        DataError: the file is absent or empty, or lines break the schema; every faulty line is named.
    """
    if not path.is_file():
        raise DataError(f"expected benchmark problems in {path}, got no such file; nothing was evaluated")
    problems: list[BenchmarkProblem] = []
    faults: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            problem = BenchmarkProblem.model_validate_json(line)
        except ValidationError as error:
            faults.extend(f"line {number}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            continue
        if problem.messages[0].content != problem.prompt:
            faults.append(f"line {number}: prompt {problem.prompt!r} is not the user message")
        if not can_be_right(problem.answer):
            faults.append(
                f"line {number}: answer {problem.answer!r} of {problem.id!r} is not one digit, as no response's is"
            )
        problems.append(problem)
    faults.extend(
        f"id {name!r} occurs {count} times" for name, count in Counter(p.id for p in problems).items() if count > 1
    )
    if not problems and not faults:
        faults.append("no problems")
    if faults:
        raise DataError(f"{path} breaks the benchmark schema; nothing was evaluated:\n  " + "\n  ".join(faults))
    return problems
