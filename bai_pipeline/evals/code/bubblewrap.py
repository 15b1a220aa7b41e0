"""Sandboxes made by bubblewrap (https://github.com/containers/bubblewrap, at least 0.8).

Each has namespaces of its own for users, processes, network, mounts, IPC and host name, an empty environment, no
capability, a filter of system calls, and a file system of: Python's library and the system's shared libraries, the
packages of `package_sources`, a private /proc and /dev, all read-only, and /tmp in memory. No program but Python is
there.

The kernel does not count the processes of root. As root, bubblewrap therefore starts as an unprivileged user; what that
user could not reach is staged by `inside.launch`. From Linux 5.14 on the processes of each sandbox are counted apart;
before, those of all sandboxes together.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.code.inside import launch
from bai_pipeline.evals.code.isolation import (
    ENVIRONMENT,
    Role,
    Sandbox,
    package_sources,
    process_limits,
    python_command,
)
from bai_pipeline.evals.code.limits import Limits
from bai_pipeline.evals.code.seccomp import system_call_filter

PACKAGES = "/packages"
"""Where a sandbox has them."""
LOADER_CACHE = "/etc/ld.so.cache"
"""Where the loader finds libraries of directories that are not its own."""
NOBODY = 65534
"""The user in a sandbox."""
UNPRIVILEGED = 64_817
"""The user that bubblewrap runs as when it is started by root: a number that no distribution gives to anybody."""
TRIAL_SECONDS = 60.0
"""Until a sandbox that is tried and does not start is an error."""


@dataclass(frozen=True)
class Bubblewrap:
    """Sandboxes of bubblewrap."""

    executable: str
    user: int | None
    """Whom bubblewrap runs as; None: who started this process."""
    proc: bool = True
    """Whether a sandbox has /proc: in a container that masks parts of it, the kernel forbids another one."""
    name: str = field(default="bubblewrap", init=False)

    @contextlib.contextmanager
    def start(self, role: Role, limits: Limits, *sockets: socket.socket) -> Iterator[Sandbox]:
        """See `Isolation`."""
        descriptors = [connection.fileno() for connection in sockets]
        filter_ = system_call_filter()
        info, info_end = os.pipe()
        filter_end = _pipe_of(filter_)
        with os.fdopen(info, "rb") as told:
            try:
                process = subprocess.Popen(
                    self._command(role, limits, descriptors, info_end, filter_end),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[*descriptors, info_end, filter_end],
                    env={},
                    cwd="/",
                )
            finally:
                os.close(info_end)
                os.close(filter_end)
            sandbox = Sandbox(process)
            with process:
                try:
                    sandbox.init = _init_process(told.read())
                    yield sandbox
                finally:
                    sandbox.end()

    def _command(self, role: Role, limits: Limits, descriptors: list[int], info: int, filter_: int) -> list[str]:
        python = Path(sys.executable).resolve()
        sources = {str(path): path for path in _python_files(python)}
        sources |= {f"{PACKAGES}/{name}": path for name, path in package_sources().items()}
        outside = [Path(self.executable), *sources.values()]
        staged: dict[Path, Path] = {}
        if self.user is not None and not all(_open_to_all(path) for path in outside):
            # All of them: the stage covers what is at its place.
            staged = {path: Path(launch.STAGE, str(index)) for index, path in enumerate(outside)}
        command = [str(staged.get(outside[0], outside[0])), "--unshare-all", "--unshare-user", "--disable-userns"]
        command += ["--die-with-parent", "--as-pid-1", "--new-session", "--cap-drop", "ALL"]
        command += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
        command += ["--hostname", "sandbox", "--info-fd", str(info), "--seccomp", str(filter_), "--clearenv"]
        for name, value in ENVIRONMENT.items():
            command += ["--setenv", name, value]
        command += _system_libraries()
        for place, path in sources.items():
            command += ["--ro-bind", str(staged.get(path, path)), place]
        for path in sources.values():
            for packages in path.glob("python3*/site-packages"):
                command += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
        command += ["--proc", "/proc"] if self.proc else []
        command += ["--dev", "/dev", "--size", str(limits.scratch_bytes), "--tmpfs", "/tmp", "--chdir", "/tmp"]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
        command += python_command(role, PACKAGES, descriptors, process_limits(limits, processes=True), str(python))
        if self.user is None:
            return command
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(self.user), *map(str, staged)]
        return [*launcher, "--", *command]


def find_bubblewrap() -> Bubblewrap:
    """Bubblewrap, after a sandbox has been started.

    Raises:
        EvaluationError: it is not installed, or makes no sandbox here.
    """
    refusal = (
        "untrusted programs are not run without isolation unless that is asked for (isolation: none); "
        "no program was run"
    )
    executable = shutil.which("bwrap")
    if executable is None:
        raise EvaluationError(f"expected bwrap on the PATH (package bubblewrap), found none: {refusal}")
    user = UNPRIVILEGED if os.getuid() == 0 else None
    messages = []
    for proc in (True, False):
        isolation = Bubblewrap(executable, user, proc)
        message = _tried(isolation)
        if message is None:
            return isolation
        messages.append(message)
    who = "this user" if user is None else f"user {user}, whom root becomes for it"
    raise EvaluationError(
        f"{executable} makes no sandbox here: {messages[0] or 'it said nothing'}. It needs version 0.8 or later, and "
        f"user namespaces allowed for {who} (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
        f"kernel.apparmor_restrict_unprivileged_userns; in a container, its seccomp profile): {refusal}"
    )


def _tried(isolation: Bubblewrap) -> str | None:
    """None when a program's process starts in a sandbox; what was said when not."""
    ours, theirs = socket.socketpair()
    with ours, contextlib.ExitStack() as stack:
        with theirs:
            sandbox = stack.enter_context(isolation.start("candidate", Limits(), theirs))
        ours.settimeout(TRIAL_SECONDS)
        try:
            if ours.recv(1):
                return None
        except OSError:  # closed, or TimeoutError
            pass
    return sandbox.message


def _init_process(told: bytes) -> int | None:
    """A descriptor of the first process of a sandbox, from what bubblewrap tells of it; None when it has ended."""
    if not told:
        return None
    try:
        return os.pidfd_open(json.loads(told)["child-pid"])
    except ProcessLookupError:
        return None


def _pipe_of(content: bytes) -> int:
    """The end of a pipe that holds this, which must be less than a pipe's 4096 bytes."""
    end, start = os.pipe()
    with os.fdopen(start, "wb") as stream:
        stream.write(content)
    return end


def _python_files(python: Path) -> list[Path]:
    """What the interpreter needs: itself, and its libraries (of conda's, OpenSSL and others too)."""
    places = (python, Path(sys.base_prefix, "lib"), Path(sys.base_exec_prefix, sys.platlibdir))
    found = [path for place in places for path in (place, place.resolve()) if path.exists()]
    return list(dict.fromkeys(found))


def _system_libraries() -> list[str]:
    arguments = []
    for path in (Path("/usr/lib"), Path("/usr/lib64"), Path("/lib"), Path("/lib64")):
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    return [*arguments, "--ro-bind-try", LOADER_CACHE, LOADER_CACHE]


def _open_to_all(path: Path) -> bool:
    """Whether everybody may reach a path."""
    modes = [place.stat().st_mode for place in (path, *path.parents)]
    return bool(modes[0] & 0o004) and all(mode & 0o001 for mode in modes[1:])
