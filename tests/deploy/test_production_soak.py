"""Dagster on PostgreSQL with its daemon, as on a server: a backfill within its limits, and a schedule that ticks."""

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import pytest

from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey
from benchmarks.production.deployment import ROOT, Deployment, deployment, wait
from benchmarks.production.postgres import postgresql
from benchmarks.production.sweep import RATIOS, SWEPT, environment, most_at_once, prepare, run_times, steps_of

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

LIMIT = 2
"""Of runs and of pools in deploy/dagster-postgres.yaml."""


class Production(NamedTuple):
    """A running deployment, the study that it serves, and its instance."""

    dagster: Deployment
    plan: Plan
    instance: dg.DagsterInstance


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    directory = tmp_path_factory.mktemp("production")
    with pytest.MonkeyPatch.context() as patch, postgresql() as database:
        plan = prepare(directory)
        variables = {**environment(plan, directory), **database, "BAI_SWEEP_CRON": "* * * * *"}
        home = directory / "home"
        with deployment(home, ROOT / "deploy" / "dagster-postgres.yaml", variables) as dagster:
            for name, value in database.items():
                patch.setenv(name, value)
            with dg.DagsterInstance.from_config(str(home)) as instance:
                yield Production(dagster, plan, instance)


def test_a_backfill_over_nine_ratios_never_exceeds_its_limit(production: Production) -> None:
    identifier = production.dagster.backfill(SWEPT, RATIOS, seconds=1800)
    filters = dg.RunsFilter(tags={"dagster/backfill": identifier})
    runs = production.instance.get_runs(filters)
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * len(RATIOS)
    times = run_times(production.instance, production.plan.store, filters)
    assert sorted(one.partition for one in times) == RATIOS
    assert all(one.queued <= one.launched <= one.started <= one.ended for one in times)
    assert all(one.jobs > 0 for one in times)
    # At once as the daemon sees it, from the queue to the end, and as the steps were.
    assert most_at_once([(one.launched, one.ended) for one in times]) == LIMIT
    steps = steps_of(production.instance, [run.run_id for run in runs])
    assert len(steps) > len(RATIOS) * len(SWEPT)  # checks are steps too
    assert most_at_once(steps) <= LIMIT
    name = production.plan.study.name
    for ratio in RATIOS:
        assert production.plan.store.read_ref(RefKey(name, "ppo_run", ratio, 0)) is not None


def test_the_schedule_ticks_once_it_is_on_and_does_nothing_twice(production: Production) -> None:
    """After the backfill: a run for each alpha, whose jobs are all done already."""
    sweeps = dg.RunsFilter(job_name="alpha_sweep")
    with production.dagster.schedule("nightly_sweep"):
        wait(lambda: len(production.instance.get_runs(sweeps)) >= len(RATIOS), 180, "the tick of the schedule")
    runs = production.instance.get_runs(sweeps)
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]

    def are_over() -> bool:
        found = production.instance.get_runs(sweeps)
        return all(run.status in ended for run in found)

    wait(are_over, 1200, "the runs of the schedule")
    assert {run.tags["dagster/schedule_name"] for run in runs} == {"nightly_sweep"}
    assert sorted({run.tags["dagster/partition"] for run in runs}) == RATIOS
    for run in production.instance.get_runs(sweeps):
        assert run.status == dg.DagsterRunStatus.SUCCESS
        logs = production.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        events = [entry.dagster_event for entry in logs if entry.dagster_event is not None]
        reused = {e.step_materialization_data.materialization.metadata["reused"].value for e in events}
        assert reused == {"true"}


def test_nothing_of_the_database_is_left_when_it_is_stopped() -> None:
    with postgresql() as database:
        assert database["DAGSTER_PG_HOST"] == "127.0.0.1"
        base = [path for path in Path("/proc").glob("[0-9]*/cmdline") if runs_on(path, database["DAGSTER_PG_PORT"])]
        assert base
    assert [path for path in base if path.exists() and runs_on(path, database["DAGSTER_PG_PORT"])] == []


def runs_on(path: Path, port: str) -> bool:
    """Whether a process was started with `-p PORT`."""
    try:
        words = path.read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return (b"-p", port.encode()) in pairwise(words) and os.fsencode("postgres") in words[0]
