"""Jobs on several ranks: one process each, of which the first one runs the job and the others take part in it.

Without RANK in the environment the process that was started becomes a launcher: it starts all ranks on this machine,
passes SIGTERM on to them, and ends with the exit code of the job. Where RANK is set, something else has started them
(torchrun, the deepspeed launcher, a TrainJob on many nodes), and each process is the rank that it says.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bai_pipeline.jobs.context import JobContext
from bai_pipeline.jobs.runner import job_function, open_input, reported_result
from bai_pipeline.jobspec import JobSpec
from bai_pipeline.progress import SilentReporter
from bai_pipeline.store import Store

_GRACE = 30.0
"""Seconds that the other ranks have after one has ended."""
_PR_SET_PDEATHSIG = 1


def is_launcher(spec: JobSpec) -> bool:
    """Whether this process has to start the ranks of a job."""
    return spec.execution.ranks > 1 and "RANK" not in os.environ


def is_follower() -> bool:
    """Whether this process is a rank that takes part in what another one runs."""
    return int(os.environ.get("RANK", "0")) > 0


def launch(uri: str, ranks: int) -> int:
    """Start `ranks` processes for the job whose specification is at `uri`, and wait for them.

    Returns:
        The first rank's exit code if it ended well or by its own will, else that of the rank that ended first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bai_pipeline.jobs", uri],
            env={**os.environ, **shared, "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            preexec_fn=_die_with_parent,
        )
        for rank in range(ranks)
    ]

    def forward(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        return _wait(processes)
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """The exit code of the whole; ranks that outlive another one by too long are left to the caller to kill."""
    first_end: float | None = None
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for rank, process in enumerate(processes):
            if rank not in codes and process.poll() is not None:
                codes[rank] = process.returncode
                first_end = first_end or time.monotonic()
        if first_end is not None and time.monotonic() - first_end > _GRACE:
            break
        time.sleep(0.05)
    if codes.get(0, -1) >= 0:
        return codes[0]
    return next(code for code in codes.values())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def meeting(spec: JobSpec) -> Callable[[bool], bool] | None:
    """On several ranks: a function by which the first one tells all whether the job will be run; None on one."""
    if spec.execution.ranks == 1 and "RANK" not in os.environ:
        return None
    from bai_pipeline.ppo.ranks import Ranks

    ranks = Ranks.join()
    return lambda go: bool(ranks.agree(go))


def follow(spec: JobSpec, store: Store) -> None:
    """Take part in a job that the first rank runs, unless that finds it done."""
    meet = meeting(spec)
    if meet is None or not meet(False):
        return
    store.check_shared(spec.identity)
    directory = store.job_directory(spec.identity)
    cache = store.root / "cache" / "brought.json"
    inputs = {name: open_input(spec, name, store, cache) for name in spec.execution.inputs}
    work = directory / "work"
    others = partial(reported_result, store)
    job_function(spec.kind)(JobContext(spec, inputs, work, Path(os.devnull), SilentReporter(), cache, others))
