"""What every asset does: run its jobs (one per seed or table row), write its refs, report what came out."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import dagster as dg

from bai_pipeline.errors import BaiPipelineError
from bai_pipeline.jobs.context import JobResult
from bai_pipeline.store import Ref, RefKey, Store
from resources import Compute, Finished, StudyResource

if TYPE_CHECKING:
    Materialized = dg.MaterializeResult[None]
else:
    Materialized = dg.MaterializeResult  # Dagster does not recognize the subscripted class on assets with checks

Metadata = Mapping[str, dg.MetadataValue | float | int | str]
Show = Callable[[Path], Metadata]
"""Makes metadata of an object's directory: an inline table, a figure."""


def materialize(
    context: dg.AssetExecutionContext, study: StudyResource, compute: Compute, show: Show | None = None
) -> Materialized:
    """Materialize the asset in hand, at the run's alpha if it is partitioned.

    Raises:
        dagster.Failure: a job failed, or something refused its input (never retried).
    """
    asset = context.asset_key.path[-1]
    alpha = context.partition_key if context.assets_def.partitions_def is not None else None
    done: dict[RefKey, Finished] = {}
    with refusals_are_final():
        plan = study.plan()
        for key in plan.keys(asset, alpha):
            spec = plan.spec(key)
            done[key] = compute.run(context, spec, plan.store)
            result = done[key].result
            plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
    results = [finished.result for finished in done.values()]
    metadata: dict[str, object] = {} if alpha is None else {"alpha": float(alpha)}
    metadata |= {**_readings(results), **_provenance(done, plan.store)}
    if show is not None:
        metadata |= show(plan.store.path(results[0].object))
    return dg.MaterializeResult(
        metadata=metadata,  # type: ignore[arg-type]
        data_version=dg.DataVersion(_data_version(results)),
        check_results=list(_checks(context, results)),
    )


@contextmanager
def refusals_are_final() -> Iterator[None]:
    """An error that the library raises on purpose fails the step at once: a retry would meet it again."""
    try:
        yield
    except BaiPipelineError as error:
        raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error


def _readings(results: Sequence[JobResult]) -> dict[str, float | str]:
    """The jobs' own metadata: numbers as floats (Dagster plots them over alpha), means if there are several jobs."""
    readings: dict[str, float | str] = {}
    for name, value in results[0].metadata.items():
        values = [result.metadata.get(name) for result in results]
        numbers = [float(v) for v in values if isinstance(v, int | float)]
        if len(numbers) == len(results):
            readings[name] = fmean(numbers)
        elif len(results) == 1:
            readings[name] = str(value)
    return readings


def _provenance(done: Mapping[RefKey, Finished], store: Store) -> Metadata:
    records = [
        dg.TableRecord(
            {"ref": str(key), "job": finished.result.job, "object": finished.result.object, "reused": finished.reused}
        )
        for key, finished in done.items()
    ]
    provenance: dict[str, dg.MetadataValue | float | int | str] = {"jobs": dg.MetadataValue.table(records)}
    provenance["reused"] = str(all(finished.reused for finished in done.values())).lower()
    if len(done) == 1:
        (only,) = done.values()
        provenance["path"] = dg.MetadataValue.path(store.path(only.result.object))
        provenance["job"] = only.result.job
        provenance["object"] = only.result.object
    return provenance


def _data_version(results: Sequence[JobResult]) -> str:
    """The object's digest; of several objects, a digest over theirs."""
    if len(results) == 1:
        return results[0].digest
    return hashlib.sha256(" ".join(result.digest for result in results).encode()).hexdigest()[:32]


def _checks(context: dg.AssetExecutionContext, results: Sequence[JobResult]) -> Iterator[dg.AssetCheckResult]:
    """The outcomes of the asset's own checks, which its job made."""
    declared = {key.name for key in context.selected_asset_check_keys}
    for result in results:
        for check in result.checks:
            if check.name in declared:
                yield dg.AssetCheckResult(passed=check.passed, check_name=check.name, metadata=dict(check.metadata))
