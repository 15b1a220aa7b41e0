"""What every compute has in common: a job that is done is not run again, and only its result is believed."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from bai_pipeline.jobs.context import JobResult
from bai_pipeline.jobs.runner import EXIT_INTERRUPTED, EXIT_REFUSED, read_result, run_job, write_spec
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources.job_settings import JobsSettings

_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""No job uses the network unless the compute file's `env` says otherwise."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
IN_PROCESS = ("merge_weights",)
"""Kinds of job that take milliseconds and no heavy import: a process of their own would only cost its start."""
TAIL_LINES = 30


Context = dg.AssetExecutionContext | dg.OpExecutionContext
"""Of the step that a job is run for."""


class Finished(NamedTuple):
    """A job that is done, and whether it had been done before."""

    result: JobResult
    reused: bool


class Compute(ABC):
    """Runs jobs; where is the business of each kind of compute."""

    result_timeout: float = 0.0
    """Seconds that a result may take to appear after its job ended well."""

    settings: JobsSettings

    outlives_runs = False
    """Whether a job goes on when the process of the run that started it is killed."""

    @abstractmethod
    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        """Run the job of the specification at `uri` to its end.

        Raises:
            dagster.Failure: it did not end well; see `failure`.
        """

    def run(self, context: Context, spec: JobSpec, store: Store) -> Finished:
        """The result of a job: the one it has, or the one of running it now.

        Raises:
            dagster.Failure: the job failed, or ended without a result.
            BaiPipelineError: a job that runs in this process refuses its input.
        """
        done = read_result(spec, store)
        if done is not None:
            context.log.info("%s job %s is already done: %s", spec.kind, spec.identity, done.object)
            return Finished(done, reused=True)
        if spec.kind in IN_PROCESS:
            return Finished(run_job(spec, store, context.log), reused=False)
        spec = replace(spec, execution=replace(spec.execution, **self.settings.execution(spec.kind)))
        uri = write_spec(spec, store)
        context.log.info("%s job %s; its log: %s", spec.kind, spec.identity, log_file(spec, store))
        self.launch(context, spec, uri, store)
        return Finished(self._result(spec, store), reused=False)

    def release(self, instance: dg.DagsterInstance, run_id: str) -> list[str]:
        """End what a run that is over has left behind, and say what; what another run waits for is left alone."""
        return []

    def _result(self, spec: JobSpec, store: Store) -> JobResult:
        deadline = time.monotonic() + self.result_timeout
        while (result := read_result(spec, store)) is None:
            if time.monotonic() >= deadline:
                raise failure(spec, "ended without a result in the store", log_file(spec, store), [])
            time.sleep(1.0)
        return result


ComputeResource = dg.ResourceParam[Compute]
"""How an asset asks for the compute."""


def job_environment(settings: JobsSettings, store: Store) -> dict[str, str]:
    """Environment variables of a job, wherever it runs; the compute file's own come last."""
    return {
        **dict.fromkeys(_THREADS, str(settings.threads)),
        **_OFFLINE,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "BAI_STORE": str(store.root),
        **settings.env,
    }


def log_file(spec: JobSpec, store: Store) -> Path:
    """Where a job's output goes, all attempts one after another."""
    return store.job_directory(spec.identity) / "log.txt"


def how_it_ended(code: int) -> str:
    """An exit code in words; negative is a signal, as subprocess gives it."""
    if code == EXIT_REFUSED:
        return "refused its input"
    if code == EXIT_INTERRUPTED:
        return "was told to end and saved its state"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def failure(
    spec: JobSpec, how: str, log: Path, tail: Sequence[str], exit_code: int | None = None, *, final: bool = False
) -> dg.Failure:
    """The failure of a job: how it ended, where its log is, and the log's last lines.

    A job that refused its input is not tried again: it would refuse it again. One that crashed or was killed is, unless
    it is known that it would end so again (`final`).
    """
    lines = "".join(f"\n  {line.rstrip()}" for line in tail[-TAIL_LINES:])
    return dg.Failure(
        f"{spec.kind} job {spec.identity} {how}; its log is {log}" + (f" and ends with:{lines}" if lines else ""),
        metadata={"log": dg.MetadataValue.path(str(log)), "job": spec.identity},
        allow_retries=exit_code != EXIT_REFUSED and not final,
    )
