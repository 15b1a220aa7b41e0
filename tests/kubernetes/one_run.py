"""`python -m tests.kubernetes.one_run KUBECONFIG STORE UNTIL_STEP`: a run of one asset whose pod counts, to be ended by
a test; runs with the same DAGSTER_HOME know of each other."""

import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from tests.kubernetes.cluster import compute_on
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import spec

STEPS = 20
HELD_AT = 5
"""After this step the pod waits for the file `work/go`."""


def counting(until_step: int) -> JobSpec:
    """Counting; `until_step` says nothing to the job, and makes another specification of it."""
    job = spec("count", steps=STEPS, pause=0.02, hold_at=HELD_AT)
    return replace(job, execution=replace(job.execution, until_step=until_step))


if __name__ == "__main__":
    kubeconfig, store, until_step = sys.argv[1:]
    with dg.DagsterInstance.get() as instance:
        outcome = run(compute_on(Path(kubeconfig)), counting(int(until_step)), Store(Path(store)), instance)
    sys.exit(isinstance(outcome, dg.Failure))
