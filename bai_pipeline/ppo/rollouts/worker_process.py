"""A program of another Python environment, run as a process that answers calls; `vllm_worker` documents the messages.

The process has a session of its own and ends with this one; whatever it prints goes to a file, whose last lines come
into the errors.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.rollouts.vllm_worker import LENGTH, pack

LOG_FILE = "worker.log"

_TAIL_BYTES, _TAIL_LINES = 8192, 20
_POLL_SECONDS = 0.5
_CLOSING_SECONDS = 10.0

_NOT_INHERITED = frozenset(
    {
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"),
        *("MASTER_ADDR", "MASTER_PORT", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
    }
)
"""Of the trainer's process group and environment: a worker that inherited them would try to join."""


class WorkerProcess:
    """Starts the program and gives its answers, or a `TrainingError` with what it printed last.

    After an error the process is gone, and so it is after `close`.
    """

    def __init__(
        self, python: Path, program: Path, directory: Path, environment: Mapping[str, str], timeout: float
    ) -> None:
        """Start the program and wait until it is ready.

        Args:
            python: the interpreter.
            program: gets the number of a socket, this process's id and `directory` as arguments.
            directory: exists; gets the log, and is removed by the program if this process dies.
            environment: in addition to this process's own.
            timeout: seconds that starting, and then any call, may take.

        Raises:
            TrainingError: there is no such interpreter, or the program ends or is not ready in time.
        """
        self._name, self._timeout = f"{program.name} ({python})", timeout
        self._log = directory / LOG_FILE
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in _NOT_INHERITED and not key.startswith("TORCHELASTIC_")
        }
        ours, theirs = socket.socketpair()
        with ExitStack() as stack:
            stack.enter_context(ours)
            with theirs, self._log.open("wb") as log:
                command = [str(python), "-I", str(program), str(theirs.fileno()), str(os.getpid()), str(directory)]
                try:
                    process = subprocess.Popen(
                        command,
                        env={**inherited, **environment},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        pass_fds=[theirs.fileno()],
                        start_new_session=True,
                    )
                except OSError as error:
                    raise TrainingError(
                        f"{python}: expected a Python interpreter to run {program.name} with: {error.strerror}"
                    ) from error
            self._process, self._connection = process, ours
            stack.callback(self.close)
            self.greeting = self._receive("start", time.monotonic() + timeout)
            stack.pop_all()

    @property
    def pid(self) -> int:
        """The process's id, which is its group's too."""
        return self._process.pid

    def require_open(self, what: str) -> None:
        """Refuse to go on with a process that is gone.

        Raises:
            TrainingError: it was closed, on purpose or after an error.
        """
        if self._connection.fileno() < 0:
            raise TrainingError(f"{self._name} is closed; it cannot {what}")

    def call(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a call.

        Raises:
            TrainingError: the process is closed, ends, or gives no answer in time; it is gone then.
        """
        self.require_open(what)
        deadline = time.monotonic() + self._timeout
        try:
            self._connection.settimeout(self._timeout)
            self._connection.sendall(pack({"call": what, **arguments}))
        except OSError as error:  # broken pipe, or nobody reads
            raise self._failure(what, late=isinstance(error, TimeoutError)) from error
        return self._receive(what, deadline)

    def close(self) -> None:
        """End the process and all that it started; the log stays."""
        self._connection.close()  # the program's sign to end
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _receive(self, what: str, deadline: float) -> dict[str, Any]:
        (length,) = LENGTH.unpack(self._read(LENGTH.size, what, deadline))
        answer: dict[str, Any] = json.loads(self._read(length, what, deadline))
        return answer

    def _read(self, length: int, what: str, deadline: float) -> bytes:
        parts = []
        while length > 0:
            part = self._read_some(length, what, deadline)
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _read_some(self, length: int, what: str, deadline: float) -> bytes:
        """At least one byte. The process is looked at between waits: what it started may hold its end of the socket."""
        self._connection.settimeout(_POLL_SECONDS)
        while True:
            ended = self._process.poll() is not None
            try:
                part = self._connection.recv(min(length, 1 << 20))
            except TimeoutError:
                if ended:
                    raise self._failure(what) from None
                if time.monotonic() > deadline:
                    raise self._failure(what, late=True) from None
                continue
            except ConnectionError as error:
                raise self._failure(what) from error
            if not part:
                raise self._failure(what)
            return part

    def _failure(self, what: str, *, late: bool = False) -> TrainingError:
        """Ends the process; the error that says so."""
        if late:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self.close()
        how = f"gave no answer within {self._timeout:g} s and was stopped"
        if not late:
            how = f"ended with {_how_it_ended(self._process.returncode)}"
        return TrainingError(
            f"{self._name} was to {what}, but {how}; nothing was sampled. The last that it printed:\n{self._tail()}"
        )

    def _tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:]) or "(nothing)"


def _how_it_ended(code: int) -> str:
    return f"code {code}" if code >= 0 else signal.Signals(-code).name
