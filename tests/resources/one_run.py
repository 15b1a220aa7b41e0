"""A Dagster run of one asset that runs one job.

`python -m tests.resources.one_run STORE KIND` is for tests that end it.
"""

import sys
from pathlib import Path

import dagster as dg

from assets.execution import Materialized
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources import Compute, Finished, LocalCompute, LocalSettings
from tests.resources.stand_in_jobs import COMMAND, spec


def run(
    compute: Compute, job: JobSpec, store: Store, instance: dg.DagsterInstance | None = None
) -> Finished | dg.Failure:
    """What the asset got from the compute."""
    outcome: list[Finished | dg.Failure] = []

    @dg.asset
    def one_job(context: dg.AssetExecutionContext) -> Materialized:
        try:
            outcome.append(compute.run(context, job, store))
        except dg.Failure as failure:
            outcome.append(failure)
        return dg.MaterializeResult()

    dg.materialize([one_job], instance=instance)
    return outcome[0]


if __name__ == "__main__":
    run(
        LocalCompute(LocalSettings(command=COMMAND, termination_grace=2.0)), spec(sys.argv[2]), Store(Path(sys.argv[1]))
    )
