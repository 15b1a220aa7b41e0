"""Where untrusted programs run: what a sandbox is, and whether this machine can have one."""

import contextlib
import importlib.util
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.code import inside
from bai_pipeline.evals.code.inside import candidate, grader
from bai_pipeline.evals.code.limits import Limits

Role = Literal["candidate", "grader"]
ROLES = {"candidate": candidate.__name__, "grader": grader.__name__}
"""What a sandbox may run, and the module of each. (Importing them here leaves them compiled.)"""

END_SECONDS = 30.0
"""Until a killed sandbox that has not ended is an error."""
MESSAGE_BYTES = 4096
"""Of what a sandbox that does not start says of it."""
ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""All of a sandbox's environment. Sets are in the same order in every run."""


class Isolation(Protocol):
    """How a sandbox is made."""

    @property
    def name(self) -> str:
        """For the record of an evaluation."""

    def start(self, role: Role, limits: Limits, *sockets: socket.socket) -> AbstractContextManager["Sandbox"]:
        """A sandbox that runs a role; when the block is left, all its processes have been killed and have ended.

        Raises:
            EvaluationError: it does not start, or does not end.
        """


@dataclass
class Sandbox:
    """The processes of one sandbox."""

    process: subprocess.Popen[bytes]
    init: int | None = None
    """A descriptor of the first process of its process namespace (pidfd), where it has one."""
    group: bool = False
    """Whether the processes are killed as a process group."""
    message: str = ""
    """What was written to standard error before the program was loaded; known when it has ended."""

    def wait(self, seconds: float) -> int | None:
        """The exit code, 128 + n after signal n; None when it still runs after these seconds."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """Kill every process and wait until they have ended.

        Raises:
            EvaluationError: they have not after `END_SECONDS`.
        """
        if self.init is not None:
            # The kernel ends a namespace's first process last, when the others are gone.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init, signal.SIGKILL)
            poll = select.poll()
            poll.register(self.init, select.POLLIN)
            ended = poll.poll(END_SECONDS * 1000)
            os.close(self.init)
            if not ended:
                raise EvaluationError(f"a sandbox has not ended {END_SECONDS:.0f} s after it was killed")
            self.wait(END_SECONDS)  # bubblewrap reaps that process: killed too early, it leaves a zombie
        if self.group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            os.set_blocking(self.process.stderr.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                written = os.read(self.process.stderr.fileno(), MESSAGE_BYTES)
                self.message = " ".join(written.decode("utf-8", "replace").split())


@dataclass(frozen=True)
class Unisolated:
    """No sandbox: a process group with limits (none on their number), an empty environment and a directory of its own.

    A program can read and send what the user may, reach the tests' process, and leave processes that outlive it. For
    programs that are trusted, or a machine that is itself a sandbox.
    """

    name: str = field(default="none", init=False)

    @contextlib.contextmanager
    def start(self, role: Role, limits: Limits, *sockets: socket.socket) -> Iterator[Sandbox]:
        """See `Isolation`."""
        descriptors = [connection.fileno() for connection in sockets]
        with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as directory:
            packages, work = Path(directory, "packages"), Path(directory, "work")
            work.mkdir()
            for name, source in package_sources().items():
                (packages / name).parent.mkdir(parents=True, exist_ok=True)
                (packages / name).symlink_to(source)
            process = subprocess.Popen(
                python_command(role, str(packages), descriptors, process_limits(limits)),
                executable=sys.executable,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=descriptors,
                cwd=work,
                env={**ENVIRONMENT, "HOME": str(work)},
                start_new_session=True,
            )
            sandbox = Sandbox(process, group=True)
            with process:
                try:
                    yield sandbox
                finally:
                    sandbox.end()


def find_isolation(kind: Literal["bubblewrap", "none"] = "bubblewrap") -> Isolation:
    """What isolates programs here, after it has been tried.

    Args:
        kind: "none" is to be a user's explicit choice: see `Unisolated`.

    Raises:
        EvaluationError: no sandbox can be made here; the message says what is missing.
    """
    if kind == "none":
        return Unisolated()
    from bai_pipeline.evals.code.bubblewrap import find_bubblewrap

    return find_bubblewrap()


def process_limits(limits: Limits, *, processes: bool = False) -> dict[str, int]:
    """What `confine` takes; the number of processes only where it is counted for the sandbox alone."""
    found = {"cpu": limits.cpu_seconds, "memory": limits.memory_bytes, "file": limits.file_bytes}
    return found | ({"processes": limits.processes} if processes else {})


def package_sources() -> dict[str, Path]:
    """The packages of a sandbox, by their place in its directory of them: ours without its parents, and numpy."""
    sources = {inside.__name__.replace(".", "/"): Path(inside.__file__).parent}
    found = importlib.util.find_spec("numpy")
    if found is not None and found.origin is not None:
        numpy = Path(found.origin).parent
        libraries = numpy.with_name("numpy.libs")  # where a wheel keeps OpenBLAS
        sources |= {path.name: path for path in (numpy, libraries) if path.is_dir()}
    return sources


def python_command(
    role: Role, packages: str, descriptors: list[int], limits: Mapping[str, int], python: str = sys.executable
) -> list[str]:
    """The command of a role: Python without site-packages, user settings and compiled files."""
    code = f"import sys; sys.path.insert(0, {packages!r}); from {ROLES[role]} import main; main()"
    arguments = [*map(str, descriptors), json.dumps(limits)]
    return [python, "-P", "-s", "-S", "-B", "-c", code, *arguments]
