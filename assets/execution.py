"""What every asset does: run its jobs (one per seed or table row), write its refs, report what came out."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import dagster as dg

from bai_pipeline.errors import BaiPipelineError
from bai_pipeline.jobs.context import CheckOutcome, JobResult
from bai_pipeline.jobs.runner import read_failed_checks
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import MODEL_DIRECTORIES
from bai_pipeline.store import Ref, RefKey, Store
from resources import Compute, Context, Finished, StudyResource

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[None]
else:
    Materialized = dg.MaterializeResult  # Dagster does not recognize the subscripted class on assets with checks

Metadata = Mapping[str, dg.MetadataValue | float | int | str]
RETRIES = 2
RETRY_DELAY = 10.0
"""Seconds before the first retry; twice as long before the second."""
Show = Callable[[Path], Metadata]
"""Makes metadata of an object's directory: an inline table, a figure."""


def materialize(
    context: dg.AssetExecutionContext, study: StudyResource, compute: Compute, show: Show | None = None
) -> Materialized:
    """Materialize the asset in hand, at the run's alpha if it is partitioned.

    Raises:
        dagster.Failure: something refused its input.
        dagster.RetryRequested: a job failed in a way that may pass.
    """
    asset = context.asset_key.path[-1]
    alpha = context.partition_key if context.assets_def.partitions_def is not None else None
    done: dict[RefKey, Finished] = {}
    with refusals_are_final():
        plan = study.plan()
        beside = plan.beside(asset)
        for key in [*beside, *plan.keys(asset, alpha)]:
            if (hole := plan.hole(key)) is not None:
                context.log.warning("%s will not be made: %s", key, hole)
                continue
            spec = plan.spec(key)
            with crashes_are_retried(context), failed_checks_are_reported(context, spec, plan.store, alpha):
                done[key] = compute.run(context, spec, plan.store)
            result = done[key].result
            plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
    if not done:
        raise dg.Failure(f"{asset} has nothing to make: {hole}", allow_retries=False)
    made_beside = [done.pop(key).result for key in beside]
    results = [finished.result for finished in done.values()]
    metadata: dict[str, object] = {} if alpha is None else {"alpha": float(alpha)}
    metadata |= {**readings(done), **provenance(done, plan.store)}
    if show is not None:
        metadata |= show(plan.store.open(results[0].object, skip=MODEL_DIRECTORIES))
    return dg.MaterializeResult(
        metadata=metadata,  # type: ignore[arg-type]
        data_version=dg.DataVersion(data_version(results)),
        check_results=list(_checks(context, [*made_beside, *results])),
    )


@contextmanager
def refusals_are_final() -> Iterator[None]:
    """An error that the library raises on purpose fails the step at once: a retry would meet it again."""
    try:
        yield
    except BaiPipelineError as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


@contextmanager
def crashes_are_retried(context: Context) -> Iterator[None]:
    """A job that crashed or was killed is started again; it goes on from its last checkpoint.

    A `RetryPolicy` on the asset would do the same, and would start the job again when someone cancels the run.
    """
    try:
        yield
    except dg.Failure as failure:
        if not failure.allow_retries:
            raise
        delay = RETRY_DELAY * 2**context.retry_number
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=delay) from failure


@contextmanager
def failed_checks_are_reported(
    context: dg.AssetExecutionContext, spec: JobSpec, store: Store, alpha: str | None
) -> Iterator[None]:
    """A job that was refused has no result to return its checks with: they go straight to the event log."""
    try:
        yield
    except dg.Failure:
        for check in read_failed_checks(spec, store):
            context.instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=context.asset_key,
                    check_name=check.name,
                    passed=False,
                    metadata=dict(check.metadata),
                    partition=alpha,
                )
            )
        raise


def readings(done: Mapping[RefKey, Finished]) -> Metadata:
    """The jobs' own metadata: numbers as floats, so that Dagster plots them over alpha.

    Means over seeds; of different models (rows of a table) there is no mean, only a table.
    """
    results = [finished.result for finished in done.values()]
    if len({key.part for key in done}) > 1:
        return {"readings": dg.MetadataValue.table([_record(key, f.result.metadata) for key, f in done.items()])}
    values_of: dict[str, float | str] = {}
    for name, value in results[0].metadata.items():
        values = [result.metadata.get(name) for result in results]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        if len(numbers) == len(results):
            values_of[name] = fmean(numbers)
        elif len(results) == 1:
            values_of[name] = str(value)
    return values_of


def _record(key: RefKey, values: Mapping[str, float | int | str]) -> dg.TableRecord:
    return dg.TableRecord({"ref": str(key), **values})


def provenance(done: Mapping[RefKey, Finished], store: Store) -> Metadata:
    """Which jobs made it, and where it lies."""
    records = [
        _record(key, {"job": result.job, "object": result.object, "reused": reused})
        for key, (result, reused) in done.items()
    ]
    found: dict[str, dg.MetadataValue | float | int | str] = {"jobs": dg.MetadataValue.table(records)}
    found["reused"] = str(all(finished.reused for finished in done.values())).lower()
    if len(done) == 1:
        (only,) = done.values()
        found["path"] = dg.MetadataValue.path(store.path(only.result.object))
        found["job"] = only.result.job
        found["object"] = only.result.object
    return found


def data_version(results: Sequence[JobResult]) -> str:
    """The object's digest; of several objects, a digest over theirs."""
    if len(results) == 1:
        return results[0].digest
    return hashlib.sha256(" ".join(result.digest for result in results).encode()).hexdigest()[:32]


def outcomes(results: Sequence[JobResult]) -> dict[str, CheckOutcome]:
    """The checks that jobs made, by name; of one that several made, the first that failed."""
    found: dict[str, CheckOutcome] = {}
    for check in (check for result in results for check in result.checks):
        if check.name not in found or (found[check.name].passed and not check.passed):
            found[check.name] = check
    return found


def severity(check: CheckOutcome) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.WARN if check.severity == "warn" else dg.AssetCheckSeverity.ERROR


def _checks(context: dg.AssetExecutionContext, results: Sequence[JobResult]) -> Iterator[dg.AssetCheckResult]:
    """The outcomes of the asset's own checks, which its jobs made."""
    wanted = {key.name for key in context.selected_asset_check_keys}
    for name, check in outcomes(results).items():
        if name in wanted:
            yield dg.AssetCheckResult(
                passed=check.passed, check_name=name, metadata=dict(check.metadata), severity=severity(check)
            )
