"""A process that executes the demo's Dagster runs one after another: `python -m assets.demo.worker`.

What it costs to import Dagster, the graph and the checks is paid once, not in every run. It reads a JSON line for each
run, {assets, partition, log}, and answers with a line: the exit code. What a run prints goes to its log.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import dagster as dg


def main(orders: IO[str], answers: IO[str]) -> None:
    from assets.definitions import defs
    from assets.expectations import load

    load()
    with own_turn():
        instance = dg.DagsterInstance.get()
    with instance:
        job = defs.resolve_implicit_global_asset_job_def()
        for line in orders:
            order = json.loads(line)
            with Path(order["log"]).open("a", encoding="utf-8") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            code = execute(job, instance, order["assets"], order["partition"])
            answers.write(f"{code}\n")
            answers.flush()


@contextmanager
def own_turn() -> Iterator[None]:
    """One worker after another: two that make the tables of a fresh instance at a time disturb each other."""
    with Path(os.environ["DAGSTER_HOME"], "demo", "instance.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def execute(job: dg.JobDefinition, instance: dg.DagsterInstance, assets: Sequence[str], partition: str | None) -> int:
    """0 if the run ended well, else 1."""
    keys = [dg.AssetKey(name) for name in assets]
    result = job.execute_in_process(
        asset_selection=keys, partition_key=partition, instance=instance, raise_on_error=False
    )
    return 0 if result.success else 1


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as own:
        os.dup2(2, 1)
        main(sys.stdin, own)
