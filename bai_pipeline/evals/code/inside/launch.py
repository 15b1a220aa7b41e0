"""Become an unprivileged user, for good, and then another program.

    python -I -S launch.py UID [PATH …] -- COMMAND …

Run as root. PATHs that UID may not reach (below a home directory, for example) appear to COMMAND as /tmp/0, /tmp/1, …
of a mount namespace of its own, whose /tmp holds nothing else.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Sequence

STAGE = "/tmp"
CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
O_PATH = getattr(os, "O_PATH", 0)


def main(arguments: Sequence[str]) -> None:
    """Stage the paths, change the user and execute the command."""
    uid, end = int(arguments[0]), arguments.index("--")
    try:
        if paths := arguments[1:end]:
            stage(paths)
        # Where the machine's memory ends, a sandbox is ended and not the process that trains; see `confine`.
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.execv(arguments[end + 1], list(arguments[end + 1 :]))
    except OSError as error:
        sys.exit(f"not started as user {uid}: {error}")


def stage(paths: Sequence[str]) -> None:
    """Mount the paths where everybody may reach them, for this process only."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    opened = [os.open(path, O_PATH) for path in paths]  # before /tmp is covered
    _mount(libc, "none", "/", None, MS_REC | MS_PRIVATE)
    _mount(libc, "tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for index, descriptor in enumerate(opened):
        target = f"{STAGE}/{index}"
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.mkdir(target)  # noqa: PTH102 (importing pathlib takes longer than all of this)
        else:
            os.close(os.open(target, os.O_CREAT))
        _mount(libc, f"/proc/self/fd/{descriptor}", target, None, MS_BIND | MS_REC)


def _mount(libc: ctypes.CDLL, source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    code = libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode()
    )
    _check(code, f"mount {source} on {target}")


def _check(code: int, action: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), action)


if __name__ == "__main__":
    main(sys.argv[1:])
