"""Running one job: from a specification in the store to an object in the store, once."""

import hashlib
import importlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bai_pipeline.checkpoints import MANIFEST_FILE
from bai_pipeline.errors import BaiPipelineError, CheckpointError, JobError, StoreError, StoreUnavailable
from bai_pipeline.jobs.context import CheckOutcome, JobContext, JobResult, Outcome
from bai_pipeline.jobs.reporter import JobReporter
from bai_pipeline.jobspec import JobSpec, canonical_json
from bai_pipeline.plan import MODEL_DIRECTORIES, reaches, records_of
from bai_pipeline.store import Claim, Store

EXIT_CRASHED = 1
"""Exit code of a job process whose failure may pass: a crash, or object storage that could not be asked."""

EXIT_REFUSED = 3
"""Exit code of a job process that refused its input: trying again would change nothing (a crash exits with 1)."""

EXIT_INTERRUPTED = 75
"""Exit code of a job process that was told to end and saved its state (EX_TEMPFAIL): another attempt goes on there."""

KINDS = {
    "pretraining_data": "bai_pipeline.jobs.data:pretraining_data",
    "sft_data": "bai_pipeline.jobs.data:sft_data",
    "prompts": "bai_pipeline.jobs.data:prompts",
    "benchmark_data": "bai_pipeline.jobs.data:benchmark_data",
    "preferences": "bai_pipeline.jobs.data:preferences",
    "import_checkpoint": "bai_pipeline.jobs.checkpoints:import_checkpoint",
    "merge_weights": "bai_pipeline.jobs.checkpoints:merge_weights",
    "merge": "bai_pipeline.jobs.checkpoints:merge",
    "actor": "bai_pipeline.jobs.checkpoints:actor",
    "actor_checkpoints": "bai_pipeline.jobs.checkpoints:actor_checkpoints",
    "pretrain": "bai_pipeline.jobs.training:pretrain",
    "finetune": "bai_pipeline.jobs.training:finetune",
    "reward": "bai_pipeline.jobs.training:reward",
    "ppo": "bai_pipeline.jobs.rlhf:ppo",
    "evaluate": "bai_pipeline.jobs.evaluation:evaluate",
    "ratio_table": "bai_pipeline.jobs.evaluation:ratio_table",
    "paradigm_table": "bai_pipeline.jobs.evaluation:paradigm_table",
    "case_studies": "bai_pipeline.jobs.evaluation:case_studies",
    "contamination": "bai_pipeline.jobs.evaluation:contamination",
    "diagnose": "bai_pipeline.jobs.dynamics:diagnose_runs",
    "recommendation": "bai_pipeline.jobs.dynamics:recommendation",
    "halving": "bai_pipeline.jobs.halving:halving",
    "figures": "bai_pipeline.jobs.report:figures",
    "report": "bai_pipeline.jobs.report:report",
}
"""Where each kind of job is, imported when it is run."""


FAILED_CHECKS = "failed_checks.json"

_MERGES = frozenset({"merge", "actor", "actor_checkpoints"})
"""Jobs that take tensors of their inputs one by one."""
_READERS_OF_TABLES = frozenset({"diagnose", "recommendation", "halving", "figures", "report"})
"""Jobs that open no model, but inputs that hold some."""


def write_spec(spec: JobSpec, store: Store) -> str:
    """Put a specification into the store for a job process to read; returns its URI."""
    text = spec.to_json()
    name = f"spec-{_text_digest(text)}.json"  # two callers may ask the same job for different steps
    store.write_text(f"jobs/{spec.identity}/{name}", text)
    return f"store:jobs/{spec.identity}/{name}"


def read_spec(uri: str, store: Store) -> JobSpec:
    """Read the specification that `write_spec` wrote.

    Raises:
        JobError: absent, malformed, or altered since its directory was named after its identity.
    """
    path = store.path(uri)  # refuses what is not below the store
    text = store.read_text(uri.removeprefix("store:"))
    if text is None:
        raise JobError(f"no job specification at {uri} (looked in {store.location})")
    spec = JobSpec.from_json(text)
    if spec.identity != path.parent.name or path.name != f"spec-{_text_digest(text)}.json":
        raise JobError(f"{path} was altered: its identity is {spec.identity}, its digest {_text_digest(text)}")
    return spec


def read_result(spec: JobSpec, store: Store) -> JobResult | None:
    """The result of a job that is already done, as far as `spec.execution` asks for.

    None otherwise, and also where its object was lost or damaged since: the job is then run again.
    """
    result = reported_result(store, spec.identity)
    if result is None:
        return None
    try:
        return result if reaches(spec, store.peek(result.object, *records_of(spec.kind))) else None
    except StoreUnavailable:
        raise  # a job is not run again because nobody could be asked
    except StoreError:
        return None


def reported_result(store: Store, identity: str) -> JobResult | None:
    """The newest result of a job, whatever it was asked for and whether its object is still there."""
    text = store.read_text(f"jobs/{identity}/result.json")
    return None if text is None else JobResult.from_json(text)


def read_failed_checks(spec: JobSpec, store: Store) -> list[CheckOutcome]:
    """The checks that the last attempt of a job failed before it was refused; a refused job has no result."""
    text = store.read_text(f"jobs/{spec.identity}/{FAILED_CHECKS}")
    return [] if text is None else [CheckOutcome(**check) for check in json.loads(text)]


def run_job(
    spec: JobSpec, store: Store, logger: logging.Logger, meet: Callable[[bool], bool] | None = None
) -> JobResult:
    """Run a job, or return the result it already has. Only one process runs a job at a time; others wait.

    Args:
        meet: tells the other ranks whether the job is run (see `bai_pipeline.jobs.ranks`).

    Raises:
        JobError: unknown kind.
        BaiPipelineError: whatever the job refuses; nothing is published then.
    """
    if spec.kind not in KINDS:
        raise JobError(f"unknown kind of job {spec.kind!r}; known are {', '.join(KINDS)}")
    # The order of keys is not hashed, so no job may see another than the JSON's.
    spec = JobSpec.from_json(spec.to_json())
    with store.claim(spec.identity, logger) as claim:
        done = read_result(spec, store)
        if done is not None:
            logger.info(f"{spec.kind} {spec.identity} is already done: {done.object}")
            if meet is not None:
                meet(False)
            return done
        execution = spec.execution
        attempt = {"ranks": execution.ranks, "zero_stage": execution.zero_stage, "until_step": execution.until_step}
        with (claim.directory / "attempts.jsonl").open("a", encoding="utf-8") as file:
            file.write(canonical_json(attempt) + "\n")
        claim.keep("attempts.jsonl")
        result = _run(spec, store, claim, logger, meet)
        claim.check()
        store.write_text(f"jobs/{spec.identity}/result.json", result.to_json())
        return result


def _run(
    spec: JobSpec, store: Store, claim: Claim, logger: logging.Logger, meet: Callable[[bool], bool] | None
) -> JobResult:
    failed = f"jobs/{spec.identity}/{FAILED_CHECKS}"
    store.remove_text(failed)  # what an earlier attempt failed says nothing of this one
    cache = store.root / "cache" / "brought.json"
    inputs = {name: open_input(spec, name, store, cache) for name in spec.execution.inputs}
    work = claim.directory / "work"
    work.mkdir(exist_ok=True)
    reporter = JobReporter(logger, claim.directory / "progress.json", claim.keep)
    with store.staging() as out:
        context = JobContext(spec, inputs, work, out, reporter, cache, partial(reported_result, store), claim.save)
        if meet is not None:
            meet(True)
        try:
            outcome = job_function(spec.kind)(context)
        except BaiPipelineError:
            checks = [asdict(check) for check in reporter.checks if not check.passed]
            store.write_text(failed, canonical_json(checks))
            raise
        if outcome.brought is None:
            uri = store.publish(spec.kind, out)
            digest = store.digest(uri)
        else:
            uri, digest = outcome.brought.resolve().as_uri(), str(outcome.digest)
    if spec.kind != "ppo":
        shutil.rmtree(work)
    return JobResult(spec.identity, uri, digest, dict(outcome.metadata), tuple(reporter.checks))


def open_input(spec: JobSpec, name: str, store: Store, cache: Path) -> Path:
    """An input, whole and with the content that the job was ordered with.

    Raises:
        StoreError: an object is absent or damaged.
        CheckpointError: a checkpoint that the user brought has changed since it was imported.
    """
    uri = spec.execution.inputs[name]
    path = _open(spec.kind, name, uri, store)
    if uri.startswith("file:"):
        from bai_pipeline.checkpoints import checkpoint_digest

        found = checkpoint_digest(path, cache)
        if found != spec.inputs[name]:
            raise CheckpointError(
                f"{path} has changed since it was imported as {name}: its digest was {spec.inputs[name]}, now it is "
                f"{found}; materialize its asset again"
            )
    return path


def _open(kind: str, name: str, uri: str, store: Store) -> Path:
    """An input, as far as this kind of job reads it."""
    merged = kind in _MERGES or (kind == "ppo" and name.startswith("actor."))
    if merged:
        return store.open_tensors(uri, MANIFEST_FILE)
    return store.open(uri, skip=MODEL_DIRECTORIES if kind in _READERS_OF_TABLES else ())


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def job_function(kind: str) -> Callable[[JobContext], Outcome]:
    """What runs a kind of job."""
    module, name = KINDS[kind].split(":")
    function: Callable[[JobContext], Outcome] = getattr(importlib.import_module(module), name)
    return function
