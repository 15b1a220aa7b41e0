"""Running one job: from a specification in the store to an object in the store, once."""

import fcntl
import hashlib
import importlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bai_pipeline.errors import BaiPipelineError, CheckpointError, JobError, StoreError
from bai_pipeline.jobs.context import CheckOutcome, JobContext, JobResult, Outcome
from bai_pipeline.jobs.reporter import JobReporter
from bai_pipeline.jobspec import JobSpec, canonical_json
from bai_pipeline.plan import reaches
from bai_pipeline.store import Store
from bai_pipeline.store.files import write_atomically

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


def write_spec(spec: JobSpec, store: Store) -> str:
    """Put a specification into the store for a job process to read; returns its URI."""
    text = spec.to_json()
    name = f"spec-{_text_digest(text)}.json"  # two callers may ask the same job for different steps
    write_atomically(store.job_directory(spec.identity) / name, text)
    return f"store:jobs/{spec.identity}/{name}"


def read_spec(uri: str, store: Store) -> JobSpec:
    """Read the specification that `write_spec` wrote.

    Raises:
        JobError: absent, malformed, or altered since its directory was named after its identity.
    """
    path = store.path(uri)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"no job specification at {uri} (looked for {path})") from None
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
        return result if reaches(spec, store.open(result.object)) else None
    except StoreError:
        return None


def reported_result(store: Store, identity: str) -> JobResult | None:
    """The newest result of a job, whatever it was asked for and whether its object is still there."""
    path = store.root / "jobs" / identity / "result.json"
    return JobResult.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_failed_checks(spec: JobSpec, store: Store) -> list[CheckOutcome]:
    """The checks that the last attempt of a job failed before it was refused; a refused job has no result."""
    path = store.root / "jobs" / spec.identity / FAILED_CHECKS
    return [CheckOutcome(**check) for check in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


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
    directory = store.job_directory(spec.identity)
    with _lock(directory / "lock", logger):
        done = read_result(spec, store)
        if done is not None:
            logger.info(f"{spec.kind} {spec.identity} is already done: {done.object}")
            if meet is not None:
                meet(False)
            return done
        execution = spec.execution
        attempt = {"ranks": execution.ranks, "zero_stage": execution.zero_stage, "until_step": execution.until_step}
        with (directory / "attempts.jsonl").open("a", encoding="utf-8") as file:
            file.write(canonical_json(attempt) + "\n")
        result = _run(spec, store, directory, logger, meet)
        write_atomically(directory / "result.json", result.to_json())
        return result


def _run(
    spec: JobSpec, store: Store, directory: Path, logger: logging.Logger, meet: Callable[[bool], bool] | None
) -> JobResult:
    failed = directory / FAILED_CHECKS
    failed.unlink(missing_ok=True)  # what an earlier attempt failed says nothing of this one
    cache = store.root / "cache" / "brought.json"
    inputs = {name: open_input(spec, name, store, cache) for name in spec.execution.inputs}
    work = directory / "work"
    work.mkdir(exist_ok=True)
    reporter = JobReporter(logger, directory / "progress.json")
    with store.staging() as out:
        context = JobContext(spec, inputs, work, out, reporter, cache, partial(reported_result, store))
        if meet is not None:
            meet(True)
        try:
            outcome = job_function(spec.kind)(context)
        except BaiPipelineError:
            write_atomically(failed, canonical_json([asdict(check) for check in reporter.checks if not check.passed]))
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
    path = store.open(uri)
    if uri.startswith("file:"):
        from bai_pipeline.checkpoints import checkpoint_digest

        found = checkpoint_digest(path, cache)
        if found != spec.inputs[name]:
            raise CheckpointError(
                f"{path} has changed since it was imported as {name}: its digest was {spec.inputs[name]}, now it is "
                f"{found}; materialize its asset again"
            )
    return path


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def job_function(kind: str) -> Callable[[JobContext], Outcome]:
    """What runs a kind of job."""
    module, name = KINDS[kind].split(":")
    function: Callable[[JobContext], Outcome] = getattr(importlib.import_module(module), name)
    return function


@contextmanager
def _lock(path: Path, logger: logging.Logger) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process runs this very job; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
