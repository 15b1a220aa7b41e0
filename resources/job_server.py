"""Jobs that are forked from a process which has imported what they need; its side is `bai_pipeline.jobs.server`."""

import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

from bai_pipeline.errors import ComputeError


class JobServer:
    """The process that jobs are forked from. It ends with this one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it; it is ready some seconds later.

        Args:
            environment: what libraries read when they are imported (threads, offline); jobs get their own.
        """
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bai_pipeline.jobs.server", str(other.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
                start_new_session=True,
            )

    def start(self, uri: str, environment: Mapping[str, str]) -> "ForkedJob":
        """Fork the job whose specification is at `uri`.

        Raises:
            ComputeError: the server has ended.
        """
        reading, writing = os.pipe()
        order = json.dumps({"uri": uri, "environment": dict(environment)}).encode()
        try:
            socket.send_fds(self._channel, [order], [writing])
            pid = self.receive()
        except OSError as error:
            os.close(reading)
            raise ComputeError(f"the process that jobs are forked from has ended: {error}") from error
        finally:
            os.close(writing)
        return ForkedJob(self, pid, os.fdopen(reading, errors="replace"))

    def receive(self) -> int:
        """The next number that the server sends.

        Raises:
            ConnectionError: it has ended.
        """
        message = self._channel.recv(64)
        if not message:
            raise ConnectionError(f"exit code {self._process.wait()}")
        return int(message)

    def wait(self, timeout: float | None) -> bool:
        """Whether it sends something within so many seconds; None: for ever."""
        return bool(select.select([self._channel], [], [], timeout)[0])

    def close(self) -> None:
        """End it, once its job has ended."""
        self._channel.close()
        self._process.wait()


class ForkedJob:
    """A job's process, as far as a `subprocess.Popen` would be needed."""

    def __init__(self, server: JobServer, pid: int, stdout: IO[str]) -> None:
        self.pid, self.stdout = pid, stdout
        self._server = server
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None and self._server.wait(0):
            self._code = self._server.receive()
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        if self._code is None and not self._server.wait(timeout):
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code
