"""Jobs as subprocesses on this machine."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dagster import PipesTempFileContextInjector, PipesTempFileMessageReader, open_pipes_session

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources.compute import TAIL_LINES, Compute, Context, failure, how_it_ended, job_environment, log_file
from resources.compute_file import LocalSettings
from resources.job_server import ForkedJob, JobServer

_DIE_WITH_PARENT = {"BAI_DIE_WITH_PARENT": "1"}
"""After SIGKILL of the run only the kernel can end the job: see bai_pipeline.jobs.__main__."""


class LocalCompute(Compute):
    """A subprocess a job; it never outlives the run that started it."""

    settings: LocalSettings

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self._server: JobServer | None = None

    def launch(self, context: Context, spec: JobSpec, uri: str, store: Store) -> None:
        log = log_file(spec, store)
        environment = {**os.environ, **job_environment(self.settings, store), **_DIE_WITH_PARENT}
        with open_pipes_session(context, PipesTempFileContextInjector(), PipesTempFileMessageReader()) as session:
            process = self._start(uri, environment, session.get_bootstrap_env_vars())
            try:
                tail = _forward(process, log)
                code = process.wait()
            finally:
                _end(process, self.settings.termination_grace)
        if code != 0:
            raise failure(spec, how_it_ended(code), log, tail, code)

    def close(self) -> None:
        """Give back what jobs are forked from; else it ends with this process."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _start(self, uri: str, environment: dict[str, str], own: Mapping[str, str]) -> "Process":
        """The process of a job, in a session of its own: all of a job can be ended, and ctrl-C reaches only us."""
        if self.settings.preload:
            self._server = self._server or JobServer(environment)
            return self._server.start(uri, {**environment, **own})
        return subprocess.Popen(
            [*self.settings.command, uri],
            env={**environment, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )


Process = subprocess.Popen[str] | ForkedJob


def _forward(process: Process, log: Path) -> list[str]:
    """Copy a job's output to its log file and to the run's compute log; returns the last lines."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert process.stdout is not None
    with process.stdout as output, log.open("a", encoding="utf-8") as file:
        for line in output:
            file.write(line)
            file.flush()
            sys.stdout.write(line)
            sys.stdout.flush()
            tail.append(line)
    return list(tail)


def _end(process: Process, grace: float) -> None:
    """End whatever of a job still runs: SIGTERM to its group, then SIGKILL."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
