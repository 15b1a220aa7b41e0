"""What a run leaves in the cluster when its process could not end it: pods and TrainJobs are ended after it."""

from collections.abc import Iterator

import dagster as dg
from dagster import RunStatusSensorContext

from resources import Compute, ComputeResource

WILL_RETRY = "dagster/will_retry"
"""Dagster's tag of a run that it will start again; that run takes the workload over."""
OVER = (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)


def ended_run_sensors(compute: Compute) -> Iterator[dg.SensorDefinition]:
    """A sensor for each way in which a run ends without its job's end; none where jobs never outlive their run."""
    if not compute.outlives_runs:
        return
    for status in OVER:
        yield _sensor(status)


def _sensor(status: dg.DagsterRunStatus) -> dg.SensorDefinition:
    name = f"end_what_{status.value.lower()}_runs_left"

    @dg.run_status_sensor(
        run_status=status,
        name=name,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description=f"Ends pods and TrainJobs of {status.value.lower()} runs that no other run waits for.",
    )
    def ended(context: RunStatusSensorContext, compute: ComputeResource) -> dg.SkipReason | None:
        run = context.dagster_run
        if run.tags.get(WILL_RETRY) == "true":
            return dg.SkipReason(f"run {run.run_id} will be started again")
        released = compute.release(context.instance, run.run_id)
        for what in released:
            context.log.info("ended %s, which run %s had left", what, run.run_id)
        return None

    return ended
