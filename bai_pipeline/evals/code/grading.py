"""Grading programs by running tests on them.

A program and its tests run in two processes, each in a sandbox of its own. The tests call the program through
proxies, arguments and answers cross as plain data, and only the tests' process can tell the verdict. So a program has
no way to pass but to answer as the tests want: it cannot see what they compare with, end them early, replace what they
are made of, or hand them an object that lies. Yet some things differ from one process: a value that an earlier call
returned does not follow what later calls do to it, and tests cannot hand functions of their own to the program.
"""

import json
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.code.inside.link import LENGTH, pack
from bai_pipeline.evals.code.isolation import Isolation, Sandbox
from bai_pipeline.evals.code.limits import Limits

Reason = Literal["passed", "wrong", "error", "timeout", "memory", "crashed", "refused"]
"""wrong: an assertion failed. error: another exception. timeout: of wall or CPU time. memory: the program was refused
more. crashed: a process ended before the tests did. refused: an answer is too long, or not of the encoding."""

START_SECONDS = 60.0
"""Until sandboxes that have not started are an error: of this machine, not of the program."""
LAST_WORDS_SECONDS = 1.0
"""Until a process that closed its socket has told how it ended."""
DETAIL_LENGTH = 200
VERDICT_BYTES = 65_536


@dataclass(frozen=True)
class Verdict:
    """What a suite says of a program."""

    passed: bool
    reason: Reason
    detail: str = ""
    """One line: the exception and its message, cut to 200 characters."""


@dataclass(frozen=True)
class Submission:
    """A program and the suites that grade it."""

    program: str
    suites: Mapping[str, str]
    """Source of the tests by name. A suite is passed when it runs to its end. It imports what it uses itself."""
    names: Collection[str] | None = None
    """What the tests take from the program. None: whatever they mention and the program defines, except for names of
    built-in functions."""


def grade_program(
    program: str,
    suites: Mapping[str, str],
    *,
    isolation: Isolation,
    limits: Limits | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Verdict]:
    """Run each suite on a program, in fresh processes.

    Args:
        program: Python source; it is run as a module, not as `__main__`.
        suites, names: see `Submission`.
        limits: of each suite.

    Raises:
        EvaluationError: a sandbox does not start or does not end. Nothing that a program does raises.
    """
    bounds = limits or Limits()
    return {suite: _grade(program, tests, names, bounds, isolation) for suite, tests in suites.items()}


def grade_programs(
    submissions: Sequence[Submission],
    *,
    workers: int,
    isolation: Isolation,
    limits: Limits | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Verdict]]:
    """Grade several programs at once.

    Args:
        workers: programs at once; each is two processes, one of which waits for the other.
        progress: called with the number of programs that are graded, after each.

    Returns:
        the verdicts of each program, in the order of the submissions.

    Raises:
        EvaluationError: see `grade_program`; programs that are not yet started are not.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = [
            pool.submit(grade_program, one.program, one.suites, isolation=isolation, limits=limits, names=one.names)
            for one in submissions
        ]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                if progress is not None:
                    progress(done)
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _grade(program: str, tests: str, names: Collection[str] | None, limits: Limits, isolation: Isolation) -> Verdict:
    ours, control = socket.socketpair()
    left, right = socket.socketpair()
    job = {
        "program": program,
        "tests": tests,
        "names": None if names is None else sorted(names),
        "answer_bytes": limits.answer_bytes,
    }
    with ours, ExitStack() as sandboxes:
        with control, left, right:
            candidate = sandboxes.enter_context(isolation.start("candidate", limits, left))
            grader = sandboxes.enter_context(isolation.start("grader", limits, control, right))
        ready = _started(ours, job)
        verdict = _verdict(ours, candidate, grader, limits) if ready else None
    if verdict is None:
        said = candidate.message or grader.message or "it said nothing"
        raise EvaluationError(f"a sandbox ({isolation.name}) did not start, so that a program was not graded: {said}")
    return verdict


def _started(connection: socket.socket, job: Mapping[str, Any]) -> bool:
    """Hand the job over; whether both processes are there."""
    deadline = time.monotonic() + START_SECONDS
    try:
        connection.settimeout(START_SECONDS)
        connection.sendall(pack(dict(job)))
        message = _receive(connection, deadline)
    except OSError:  # closed, or TimeoutError
        return False
    return message is not None and message.get("ready") is True


def _verdict(connection: socket.socket, candidate: Sandbox, grader: Sandbox, limits: Limits) -> Verdict:
    try:
        message = _receive(connection, time.monotonic() + limits.wall_seconds)
    except TimeoutError:
        return Verdict(False, "timeout", f"no verdict after {limits.wall_seconds:g} s")
    except OSError:
        message = None
    if message is None:
        return _ended("the tests' process", grader, limits)
    reason = message["reason"]
    if reason not in get_args(Reason):
        raise EvaluationError(f"expected a reason of {', '.join(get_args(Reason))}, got {str(reason)[:80]!r}")
    if reason == "crashed":
        return _ended("the program's process", candidate, limits)
    return Verdict(reason == "passed", reason, _line(message["detail"]))


def _ended(what: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """The verdict on a process that ended or closed its socket."""
    code = sandbox.wait(LAST_WORDS_SECONDS)
    if code is None:
        return Verdict(False, "crashed", f"{what} closed its connection")
    if code == 128 + signal.SIGXCPU:
        return Verdict(False, "timeout", f"{what} used {limits.cpu_seconds} s of CPU time")
    if code > 128:
        return Verdict(False, "crashed", f"{what} was ended by signal {code - 128}")
    return Verdict(False, "crashed", f"{what} ended with exit code {code}")


def _receive(connection: socket.socket, deadline: float) -> dict[str, Any] | None:
    """One message; None when the other end is closed.

    Raises:
        TimeoutError: it is not there at the deadline (of the monotonic clock).
        OSError: the connection is lost.
    """
    content = b""
    missing = LENGTH.size
    length: int | None = None
    while missing:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        part = connection.recv(missing)
        if not part:
            return None
        content += part
        missing -= len(part)
        if not missing and length is None:
            (length,) = LENGTH.unpack(content)
            if length > VERDICT_BYTES:
                return None
            content, missing = b"", length
    message: dict[str, Any] = json.loads(content)
    return message


def _line(text: object) -> str:
    """Printable, on one line, cut; without lone surrogates, which no table can hold."""
    line = " ".join(str(text).split()).encode("utf-8", "backslashreplace").decode("utf-8")
    printable = "".join(character if character.isprintable() else "?" for character in line)
    return printable if len(printable) <= DETAIL_LENGTH else printable[: DETAIL_LENGTH - 1] + "…"
