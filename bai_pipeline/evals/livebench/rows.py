"""The questions of a release, their schema, and their weights in the benchmark's mean."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bai_pipeline.errors import DataError
from bai_pipeline.evals.grades import Row
from bai_pipeline.evals.livebench.schema import day
from bai_pipeline.evals.livebench.tasks import TASKS, row_faults


def check_rows(rows: Sequence[Row]) -> None:
    """Check questions before any is asked.

    Args:
        rows: of one category or of several, as the datasets livebench/math and so on have them.

    Raises:
        DataError: there are none, ids that occur twice, or rows that break the schema: each fault with the number of
            its row, from 1.
    """
    faults = [
        f"row {number}: {fault.field}: expected {fault.expected}, got {fault.found}"
        for number, row in enumerate(rows, start=1)
        for fault in row_faults(row)
    ]
    faults += [
        f"question_id {name!r} occurs {count} times"
        for name, count in Counter(str(row.get("question_id")) for row in rows).items()
        if count > 1
    ]
    if not rows:
        faults.append("no rows")
    if faults:
        raise DataError("the questions break LiveBench's schema; nothing was evaluated:\n  " + "\n  ".join(faults))


def in_release(row: Row, release: str) -> bool:
    """Whether a release holds a question: it was published by then and not removed by then.

    Args:
        row: with livebench_release_date and livebench_removal_date, each a date, a time or a text.
        release: YYYY-MM-DD.

    Raises:
        DataError: a date that is none.
    """
    released, asked = day(row.get("livebench_release_date")), day(release)
    if released is None or asked is None:
        value = release if asked is None else row.get("livebench_release_date")
        raise DataError(f"question {row.get('question_id')}: expected a date YYYY-MM-DD, got {value!r}")
    removed = day(row.get("livebench_removal_date"))
    return released <= asked and (removed is None or removed > asked)


def weights(rows: Sequence[Row]) -> list[float]:
    """The weight of each question; they sum to 1.

        w = 1 / (categories · tasks of the category · questions of the task)

    The weighted mean of scores is LiveBench's: of the categories' means of the tasks' means.

    Raises:
        DataError: an unknown task.
    """
    if unknown := sorted({str(row.get("task")) for row in rows} - TASKS.keys()):
        raise DataError(f"expected tasks of {', '.join(TASKS)}, got {', '.join(unknown)}")
    questions = Counter(str(row["task"]) for row in rows)
    tasks: defaultdict[str, set[str]] = defaultdict(set)
    for task in questions:
        tasks[TASKS[task].category].add(task)
    return [1 / (len(tasks) * len(tasks[TASKS[row["task"]].category]) * questions[row["task"]]) for row in rows]
