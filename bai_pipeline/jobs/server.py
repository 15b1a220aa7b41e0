"""A process that has imported what jobs need, and from which they are forked: no job waits for torch to be imported.

`python -m bai_pipeline.jobs.server FD`, FD is one end of a SOCK_SEQPACKET pair, the other is `resources.job_server`'s.
An order is a JSON object {uri, environment} with the descriptor that the job is to write to; it is answered by the
job's process id and, when that has ended, by its exit code (negative: a signal). There is one job at a time. The server
ends when its other end is closed, or with the process that started it.
"""

import importlib
import json
import os
import socket
import sys
from typing import NoReturn

from bai_pipeline.jobs.__main__ import die_with_parent, end_when_told
from bai_pipeline.jobs.__main__ import main as run

IMPORTED = ("bai_pipeline.ppo.run", "bai_pipeline.evals.lm", "deepspeed")
"""What most jobs have in common, and takes seconds."""
MESSAGE_BYTES = 1 << 20


def serve(channel: socket.socket) -> None:
    """Fork a job for each order, until there are no more."""
    for name in IMPORTED:
        importlib.import_module(name)
    while True:
        message, descriptors, *_ = socket.recv_fds(channel, MESSAGE_BYTES, 1)
        if not message:
            return
        order, (output,) = json.loads(message), descriptors
        process = os.fork()
        if process == 0:
            os.setsid()
            channel.send(str(os.getpid()).encode())  # now it can be ended with all that it starts
            channel.close()
            _become(order["uri"], order["environment"], output)
        os.close(output)
        _, status = os.waitpid(process, 0)
        channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(uri: str, environment: dict[str, str], output: int) -> NoReturn:
    """Be the process of a job as if it had been started for it, with its own environment and output."""
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(run([uri]))


if __name__ == "__main__":
    die_with_parent()
    end_when_told()
    os.dup2(2, 1)
    with socket.socket(fileno=int(sys.argv[1])) as own_end:
        serve(own_end)
