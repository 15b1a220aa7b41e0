"""LiveBench's tasks: their category, the schema of their rows, their grader."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from bai_pipeline.errors import DataError
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.coding import RunCode, coding, coding_faults
from bai_pipeline.evals.livebench.data_analysis import cta, tablejoin, tablejoin_faults
from bai_pipeline.evals.livebench.instruction_following import instruction_following, instruction_following_faults
from bai_pipeline.evals.livebench.language import connections, plot_unscrambling, typos
from bai_pipeline.evals.livebench.mathematics import amps_hard, math_comp, math_comp_faults, olympiad, olympiad_faults
from bai_pipeline.evals.livebench.reasoning import spatial, web_of_lies, zebra_puzzle
from bai_pipeline.evals.livebench.schema import Fault, day, fault, is_text, truth_faults
from bai_pipeline.evals.livebench.tables import tablereformat, tablereformat_faults

RELEASE: Final = "2024-11-25"
"""The last release whose questions are all public; later ones have other tasks, and graders that ask models."""

Grader = Callable[[Row, str, RunCode | None], Grade]


@dataclass(frozen=True)
class Task:
    """One task of LiveBench."""

    category: str
    grader: Grader
    faults: Callable[[Row], Iterator[Fault]]
    """What of the task's own fields breaks its schema."""


def grade(row: Row, response: str, run_code: RunCode | None = None) -> Grade:
    """Grade a response by the rule of the row's task.

    Args:
        row: a question, as LiveBench's data has it.
        response: the model's, without its thinking.
        run_code: runs the programs of coding questions.

    Raises:
        DataError: the task is unknown, or the row breaks its schema.
        EvaluationError: the question cannot be graded here: nothing runs code, an instruction of an unknown kind, a
            library that is missing.
    """
    if found := list(row_faults(row)):
        lines = "; ".join(f"{f.field}: expected {f.expected}, got {f.found}" for f in found)
        raise DataError(f"question {row.get('question_id')}: {lines}; the response was not graded")
    return TASKS[row["task"]].grader(row, response, run_code)


def row_faults(row: Row) -> Iterator[Fault]:
    """Everything in a row that breaks the schema of its task."""
    task = TASKS.get(row["task"]) if isinstance(row.get("task"), str) else None
    if task is None:
        yield fault(row, "task", f"one of {', '.join(TASKS)}")
        return
    if row.get("category") != task.category:
        yield fault(row, "category", task.category)
    if not is_text(row.get("question_id")):
        yield fault(row, "question_id", "a text that is not empty")
    for field, may_be_empty in (("livebench_release_date", False), ("livebench_removal_date", True)):
        if day(row.get(field)) is None and not (may_be_empty and row.get(field, 0) in ("", None)):
            yield fault(row, field, "a date YYYY-MM-DD" + " or nothing" * may_be_empty)
    turns = row.get("turns")
    if not isinstance(turns, list | tuple) or len(turns) != 1 or not is_text(turns[0]):
        yield fault(row, "turns", "a list of one question")
        return
    yield from task.faults(row)


def _by_text(rule: Callable[[Row, str], Grade]) -> Grader:
    """The grader of a rule that needs the response alone."""
    return lambda row, response, run_code: rule(row, response)


def _since_tags(rule: Callable[[Row, str], Grade]) -> Grader:
    """The grader of a task whose answers were in bold words, and graded otherwise, before this release.

    Raises (the grader):
        DataError: the question is of an earlier release.
    """

    def grader(row: Row, response: str, run_code: RunCode | None) -> Grade:
        released = day(row["livebench_release_date"])
        if released is None or released < RELEASE:
            raise DataError(
                f"question {row['question_id']}: expected a {row['task']} question of {RELEASE} or later, got one of "
                f"{released}; the response was not graded"
            )
        return rule(row, response)

    return grader


def _instructions() -> Task:
    return Task("instruction_following", _by_text(instruction_following), instruction_following_faults)


TASKS: Final[Mapping[str, Task]] = {
    "math_comp": Task("math", _by_text(math_comp), math_comp_faults),
    "olympiad": Task("math", _by_text(olympiad), olympiad_faults),
    "AMPS_Hard": Task("math", _by_text(amps_hard), truth_faults),
    "zebra_puzzle": Task("reasoning", _since_tags(zebra_puzzle), truth_faults),
    "web_of_lies_v2": Task("reasoning", _by_text(web_of_lies), truth_faults),
    "spatial": Task("reasoning", _by_text(spatial), truth_faults),
    "connections": Task("language", _since_tags(connections), truth_faults),
    "plot_unscrambling": Task("language", _by_text(plot_unscrambling), truth_faults),
    "typos": Task("language", _by_text(typos), truth_faults),
    "cta": Task("data_analysis", _by_text(cta), truth_faults),
    "tablejoin": Task("data_analysis", _by_text(tablejoin), tablejoin_faults),
    "tablereformat": Task("data_analysis", _by_text(tablereformat), tablereformat_faults),
    "paraphrase": _instructions(),
    "simplify": _instructions(),
    "story_generation": _instructions(),
    "summarize": _instructions(),
    "LCB_generation": Task("coding", coding, coding_faults),
    "coding_completion": Task("coding", coding, coding_faults),
}
