"""Jobs on several ranks: one process each, of which the first one runs the job and the others take part in it.

Without RANK in the environment the process that was started becomes a launcher: it starts the ranks of this machine,
passes SIGTERM on to them, and ends with the exit code of the job. Where RANK is set, something else has started them
(torchrun, the deepspeed launcher), and each process is the rank that it says.

On several nodes each one runs a launcher, and torchrun's variables say which node it is on: PET_NNODES, PET_NODE_RANK,
PET_NPROC_PER_NODE, PET_MASTER_ADDR, PET_MASTER_PORT, as a TrainJob's torch runtime sets them.
torchrun itself would do the same, but makes every exit code 1: "refused" and "told to end" would look like a crash.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bai_pipeline.errors import JobError
from bai_pipeline.jobs.context import JobContext
from bai_pipeline.jobs.runner import EXIT_INTERRUPTED, EXIT_REFUSED, job_function, open_input, reported_result
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


@dataclass(frozen=True)
class Node:
    """This machine among those that a job has, and where its ranks meet."""

    number: int
    count: int
    ranks: int
    """Ranks on this machine; every node has as many."""
    address: str
    port: int

    @classmethod
    def of(cls, environment: Mapping[str, str], ranks: int) -> "Node":
        """The node that the environment describes; the only one, if it describes none.

        Args:
            ranks: of the whole job.

        Raises:
            JobError: a variable is missing or no number, or the nodes do not have as many ranks as the job.
        """
        count = _number(environment, "PET_NNODES") if "PET_NNODES" in environment else 1
        if count == 1:
            return cls(0, 1, ranks, "127.0.0.1", _free_port())
        told = environment.get("PET_NPROC_PER_NODE", "auto")
        here = ranks // count if told in ("auto", "cpu", "gpu") else _number(environment, "PET_NPROC_PER_NODE")
        if here * count != ranks:
            raise JobError(
                f"the job has {ranks} ranks, but it was started on {count} nodes with {here} each (PET_NNODES, "
                "PET_NPROC_PER_NODE); make ranks in the compute file their product"
            )
        address = environment.get("PET_MASTER_ADDR")
        if not address:
            raise JobError(f"PET_NNODES is {count}, but PET_MASTER_ADDR does not say where the ranks meet")
        number = _number(environment, "PET_NODE_RANK")
        if not 0 <= number < count:
            raise JobError(f"PET_NODE_RANK is {number}, which is none of {count} nodes")
        return cls(number, count, here, address, _number(environment, "PET_MASTER_PORT"))

    def environment(self, local: int) -> dict[str, str]:
        """What makes a process one of this node's ranks, by its number among them."""
        return {
            "RANK": str(self.number * self.ranks + local),
            "WORLD_SIZE": str(self.count * self.ranks),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(self.ranks),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if not value.isdigit():
        raise JobError(f"{name} has to be a number on each of several nodes, got {value!r}")
    return int(value)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def launch(uri: str, node: Node) -> int:
    """Start this node's processes for the job whose specification is at `uri`, and wait for them.

    Returns:
        On the first node the first rank's exit code, if it ended well or by its own will, else that of the rank that
        ended first. On the others a refusal or an interruption counts before a crash.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bai_pipeline.jobs", uri],
            env={**os.environ, **node.environment(local)},
            preexec_fn=_die_with_parent,
        )
        for local in range(node.ranks)
    ]

    def forward(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        codes = _wait(processes)
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return _exit_code(codes, is_first=node.number == 0)


def _wait(processes: list[subprocess.Popen[bytes]]) -> dict[int, int]:
    """Exit codes by rank, in the order of their ends; ranks that outlive another one by too long are left to the caller
    to kill."""
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
    return codes


def _exit_code(codes: dict[int, int], *, is_first: bool) -> int:
    if is_first and codes.get(0, -1) >= 0:
        return codes[0]
    ends = list(codes.values())
    told = [code for code in ends if code in (EXIT_REFUSED, EXIT_INTERRUPTED)]
    return next((code for code in [*told, *ends] if code != 0), 0)


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
