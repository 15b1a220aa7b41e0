"""What a process does to itself, for good, before it runs code of a stranger."""

import contextlib
import os
import resource
from collections.abc import Mapping

FIRST_PROCESS = 1


def leave_first_process() -> None:
    """Where this is the first process of its namespace, go on in a child of it.

    The kernel keeps most signals from a first process. It waits here for all others, as one has to, and ends as the
    child ends: with its exit code, or 128 + n after signal n.
    """
    if os.getpid() != FIRST_PROCESS:
        return
    child = os.fork()
    if child == 0:
        return
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    while True:
        process, status = os.wait()
        if process == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def confine(limits: Mapping[str, int]) -> None:
    """Silence standard output and error, and set the limits, which nothing in a sandbox may raise again.

    Args:
        limits: of every process: cpu (s), memory (bytes of address space), file (bytes), and of the whole sandbox
            processes (threads count too), absent where it cannot be counted for the sandbox alone.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    with contextlib.suppress(OSError):
        # Where the machine's memory ends, this process is ended and not the one that trains.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_FSIZE, limits["file"])
    _limit(resource.RLIMIT_AS, limits["memory"])
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))  # SIGXCPU, then SIGKILL
    if "processes" in limits:
        _limit(resource.RLIMIT_NPROC, limits["processes"])


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))
