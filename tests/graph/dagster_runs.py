"""Dagster runs of a study in this process."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from assets.definitions import build_definitions
from bai_pipeline.jobs.runner import run_job
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources import Compute, Context, LocalCompute, LocalSettings


def definitions_of(study: Path, store: Store) -> dg.Definitions:
    return build_definitions(str(study), str(store.root), LocalCompute(LocalSettings()))


@contextmanager
def run_of(
    definitions: dg.Definitions, assets: list[str], partition: str | None = None
) -> Iterator[dg.ExecuteInProcessResult]:
    """A run of these assets and their checks; a failure is in the result."""
    job = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        yield job.execute_in_process(
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            partition_key=partition,
            instance=instance,
            raise_on_error=False,
        )


class InThisProcess(Compute):
    """Jobs in the process of the test, which has imported what they need."""

    def __init__(self) -> None:
        self.settings = LocalSettings()
        self.launched: list[JobSpec] = []

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        self.launched.append(spec)
        run_job(spec, store, logging.getLogger("in this process"))


def successive_halving(study: Path, store: Store) -> tuple[dg.ExecuteInProcessResult, list[JobSpec]]:
    """A run of the job of that name, and the jobs that it launched; a failure is in the result."""
    compute = InThisProcess()
    job = build_definitions(str(study), str(store.root), compute).resolve_job_def("successive_halving")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False), compute.launched


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    """What a run materialized, by asset."""
    found = (event.step_materialization_data.materialization for event in result.get_asset_materialization_events())
    return {event.asset_key.to_user_string(): event for event in found}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """The outcomes of a run's checks, by "asset:check"."""
    found = result.get_asset_check_evaluations()
    return {f"{check.asset_key.to_user_string()}:{check.check_name}": check for check in found}


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The messages of a run's failed steps, by step."""
    events = (event for event in result.all_events if event.is_step_failure)
    return {str(event.step_key): str(event.step_failure_data.error_display_string) for event in events}
