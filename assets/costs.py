"""What a run cost: GPU hours, and their price, as tags of the run; the runs page filters and the UI shows them.

A step's GPUs are those that the compute file asks for its kind of job, from the step's start to its end: the time that
a pod waits to be scheduled is counted too. Runs that failed or were cancelled have a price like others.
"""

from collections.abc import Iterable, Mapping
from math import inf, nan
from typing import Protocol

import dagster as dg

from bai_pipeline.errors import ComputeError
from resources.cluster_settings import ClusterSettings
from resources.job_settings import JobsSettings

GPU_HOURS = "bai/gpu_hours"
COST = "bai/cost"
ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
HOUR = 3600.0
"""Seconds."""


class Step(Protocol):
    """What Dagster knows of a step; seconds since the epoch."""

    @property
    def step_key(self) -> str: ...
    @property
    def start_time(self) -> float | None: ...
    @property
    def end_time(self) -> float | None: ...


def price_of(text: str) -> float | None:
    """The value of `BAI_GPU_HOUR_PRICE`; empty is none.

    Raises:
        ComputeError: not a number, or below zero.
    """
    if not text:
        return None
    try:
        price = float(text)
    except ValueError:
        price = nan
    if not 0 <= price < inf:
        raise ComputeError(f"BAI_GPU_HOUR_PRICE: expected the price of a GPU for an hour, such as 2.5, got {text!r}")
    return price


def gpus_of(settings: JobsSettings, kind: str) -> int:
    """GPUs that a job of this kind holds; on this machine nothing says how many."""
    return settings.gpus_of(kind) if isinstance(settings, ClusterSettings) else 0


def gpus_of_steps(assets: Iterable[dg.AssetsDefinition], settings: JobsSettings) -> dict[str, int]:
    """GPUs that each asset's step holds, for those that hold any."""
    kinds = {key.path[-1]: metadata["job"] for asset in assets for key, metadata in asset.metadata_by_key.items()}
    held = {step: gpus_of(settings, str(kind)) for step, kind in kinds.items()}
    return {step: gpus for step, gpus in held.items() if gpus}


def cost_sensors(gpus: Mapping[str, int], price: float | None) -> list[dg.SensorDefinition]:
    """A sensor for each way in which a run ends; none where no step holds a GPU.

    Args:
        gpus: step -> GPUs that it holds.
        price: of a GPU for an hour, in whatever currency; None: hours are all that is known.
    """
    return [_sensor(status, gpus, price) for status in ENDED] if gpus else []


def _sensor(status: dg.DagsterRunStatus, gpus: Mapping[str, int], price: float | None) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        run_status=status,
        name=f"gpu_hours_of_{status.value.lower()}",
        description=f"Tags a run that ended as {status.value} with its GPU hours.",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
    )
    def gpu_hours(context: dg.RunStatusSensorContext) -> None:
        run = context.dagster_run
        record = context.instance.get_run_record_by_id(run.run_id)
        assert record is not None
        if record.end_time is None:
            return
        tags = cost_tags(context.instance.get_run_step_stats(run.run_id), gpus, price, record.end_time)
        context.instance.add_run_tags(run.run_id, tags)

    return gpu_hours


def cost_tags(steps: Iterable[Step], gpus: Mapping[str, int], price: float | None, ended: float) -> dict[str, str]:
    """The tags of a run with these steps; none if no step held a GPU.

    Args:
        ended: when the run ended, in seconds since the epoch: the end of a step that has none of its own.
    """
    hours = sum(
        gpus.get(step.step_key, 0) * ((step.end_time or ended) - step.start_time) / HOUR
        for step in steps
        if step.start_time is not None
    )
    if hours == 0:
        return {}
    return {GPU_HOURS: f"{hours:.3f}"} | ({} if price is None else {COST: f"{hours * price:.2f}"})
