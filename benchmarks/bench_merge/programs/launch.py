"""Runs a command to its end and prints what it cost, as JSON.

A child's peak memory is never less than that of the process that started it, so this one stays small: no imports beyond
the interpreter's own, and no parent's memory. Children of the child are counted (`wait4`).
"""

import json
import os
import sys
import time


def main() -> None:
    log, command = sys.argv[1], sys.argv[2:]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    redirected = [(os.POSIX_SPAWN_OPEN, 1, log, flags, 0o644), (os.POSIX_SPAWN_DUP2, 1, 2)]
    start = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=redirected)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    cost = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_rss": usage.ru_maxrss * 1024,
        "disk_read": usage.ru_inblock * 512,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
