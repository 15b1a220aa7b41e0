"""LiveBench (White et al. 2024, arXiv:2406.19314): grades by rules, of the release 2024-11-25.

A question is a row of the datasets livebench/{math,reasoning,language,data_analysis,instruction_following,coding},
split "test". The rules are those of https://github.com/LiveBench/LiveBench at commit b0fb577, written anew. They differ
where a rule asks a model (AMPS_Hard), would give more than 1 (a repeated group in connections), or takes a time without
bound; and a box that is not closed is no box, where LiveBench's grader fails and gives 0.
"""

from bai_pipeline.evals.livebench.coding import PREAMBLE, TIME_LIMIT, RunCode, TestCase, prints_same
from bai_pipeline.evals.livebench.rows import check_rows, in_release, weights
from bai_pipeline.evals.livebench.tasks import RELEASE, TASKS, Task, grade

__all__ = [
    "PREAMBLE",
    "RELEASE",
    "TASKS",
    "TIME_LIMIT",
    "RunCode",
    "Task",
    "TestCase",
    "check_rows",
    "grade",
    "in_release",
    "prints_same",
    "weights",
]
