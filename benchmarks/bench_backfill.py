"""What Dagster adds to a sweep: nine ratios of the smoke study, two runs at a time, on PostgreSQL.

A backfill by the daemon, as on a server: PostgreSQL, a code server, the webserver and the daemon on loopback; a run is
a process of its own, and a job one more. Writes benchmarks/results/backfill-DATE.json and .md. A few minutes.
"""

import argparse
import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import dagster as dg

from benchmarks.bench_merge.__main__ import commit
from benchmarks.production.deployment import ROOT, deployment
from benchmarks.production.postgres import postgresql
from benchmarks.production.sweep import RATIOS, SWEPT, RunTimes, environment, most_at_once, prepare, run_times, steps_of

LIMIT = 2
"""Of runs and of pools: deploy/dagster-postgres.yaml."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-backfill", description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "dagster": version("dagster"),
        "limit": LIMIT,
        **measure(),
        "load": os.getloadavg()[2],
    }
    path = options.results / f"backfill-{record['date'][:10]}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = markdown(record)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


def measure() -> dict[str, Any]:
    """The backfill's runs, and how many were at work at once."""
    with tempfile.TemporaryDirectory(prefix="bench-backfill-") as directory, postgresql() as database:
        work = Path(directory)
        plan = prepare(work)
        home = work / "home"
        variables = {**environment(plan, work), **database}
        with deployment(home, ROOT / "deploy" / "dagster-postgres.yaml", variables) as dagster:
            identifier = dagster.backfill(SWEPT, RATIOS, seconds=1800)
        os.environ.update(database)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            filters = dg.RunsFilter(tags={"dagster/backfill": identifier})
            runs = run_times(instance, plan.store, filters)
            steps = steps_of(instance, [run.run_id for run in instance.get_runs(filters)])
    return {
        "runs": [run._asdict() for run in runs],
        "runs_at_once": most_at_once([(run.launched, run.ended) for run in runs]),
        "steps_at_once": most_at_once(steps),
    }


def markdown(record: dict[str, Any]) -> str:
    """The page of a record; every number in it is computed from the record's raw ones."""
    runs = [RunTimes(**run) for run in record["runs"]]
    first = min(run.queued for run in runs)
    wall = max(run.ended for run in runs) - first
    ideal = sum(run.jobs for run in runs) / record["limit"]
    rows = "\n".join(
        f"| {run.partition} | {run.launched - first:.1f} | {run.started - run.launched:.1f} | "
        f"{run.ended - run.started:.1f} | {run.jobs:.1f} | {run.overhead:.1f} |"
        for run in runs
    )
    overheads, starts = [run.overhead for run in runs], [run.started - run.launched for run in runs]
    place = f"{record['cores']} cores, {record['system']}, dagster {record['dagster']}, PostgreSQL"
    return f"""# A backfill over nine ratios

{record["date"]}, commit {record["commit"]}; {place}; {record["limit"]} runs at a time.
Load of the machine over the last quarter of an hour: {record["load"]:.1f}. Of more than a few, other work shared the
cores, and all times are longer by it.

- The nine partitions took {wall:.0f} s. Their jobs alone would have taken {ideal:.0f} s, {record["limit"]} at a time.
- Dagster adds {median(overheads):.1f} s to a partition (median; least {min(overheads):.1f} s, most
  {max(overheads):.1f} s), of which {median(starts):.1f} s are the start of the run's process.
- At most {record["runs_at_once"]} runs and {record["steps_at_once"]} steps were at work at once.

| alpha | launched at, s | start of the process, s | run, s | its jobs, s | added by Dagster, s |
| ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

Jobs: from the order in the store to the result in it, the start of their processes included. Two runs share the cores
with each other, the daemon, the code server, the webserver and PostgreSQL.
"""


if __name__ == "__main__":
    main()
