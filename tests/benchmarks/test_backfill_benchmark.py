"""The backfill benchmark's numbers and page, from made-up runs."""

import pytest

from benchmarks.bench_backfill import markdown
from benchmarks.production.sweep import RunTimes, most_at_once


@pytest.mark.parametrize(
    ("intervals", "most"),
    [([], 0), ([(0, 1)], 1), ([(0, 1), (1, 2)], 1), ([(0, 2), (1, 3), (2, 4)], 2), ([(0, 9), (1, 8), (2, 7)], 3)],
)
def test_what_ends_as_another_begins_is_not_at_once_with_it(intervals: list[tuple[float, float]], most: int) -> None:
    assert most_at_once(intervals) == most


def test_overhead_is_the_time_out_of_the_queue_without_a_job() -> None:
    assert RunTimes("0.1", queued=0, launched=10, started=14, ended=40, jobs=20).overhead == 10


def test_the_page_computes_its_numbers_from_the_runs() -> None:
    runs = [
        RunTimes("0.1", queued=100, launched=101, started=105, ended=131, jobs=20),
        RunTimes("0.2", queued=100, launched=101, started=107, ended=133, jobs=20),
        RunTimes("0.3", queued=100, launched=131, started=136, ended=160, jobs=20),
    ]
    page = markdown(
        {
            "date": "2026-11-25",
            "commit": "abc",
            "cores": 2,
            "system": "Linux",
            "dagster": "1.13",
            "limit": 2,
            "load": 2.5,
            "runs": [run._asdict() for run in runs],
            "runs_at_once": 2,
            "steps_at_once": 2,
        }
    )
    assert "The nine partitions took 60 s. Their jobs alone would have taken 30 s, 2 at a time." in page
    assert "Dagster adds 10.0 s to a partition (median; least 9.0 s, most\n  12.0 s), of which 5.0 s" in page
    assert "| 0.3 | 31.0 | 5.0 | 24.0 | 20.0 | 9.0 |" in page
