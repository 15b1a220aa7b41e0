"""vLLM in a process and an environment of its own; the other end of `worker_process`.

    python -I vllm_worker.py SOCKET PARENT DIRECTORY

SOCKET is the number of an open descriptor, PARENT the id of the process that started this one, DIRECTORY what is to
vanish with it. Imports the standard library and vLLM only. -I matters: without it `import vllm` would find the module
of that name beside this file.

Messages are JSON objects, each after its length in eight bytes, big-endian. This side begins with {"vllm": VERSION} and
then answers every call. What goes wrong ends the process with a traceback on standard error.

    {"call": "load", "options": {…}}        of vllm.LLM                      → {"loaded": true}
    {"call": "generate", "prompts": [[id]], "seeds": [int], "sampling": {…}} → {"tokens": [[id]], "logprobs": [[x]],
                                            of vllm.SamplingParams             "finish_reasons": [str]}
"""

import importlib
import json
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LENGTH = struct.Struct(">Q")


def main(arguments: Sequence[str]) -> None:
    """Serve until the other end of the socket is closed, then remove the directory."""
    descriptor, parent, directory = int(arguments[0]), int(arguments[1]), Path(arguments[2])
    threading.Thread(target=end_with, args=(parent, directory), daemon=True).start()
    with socket.socket(fileno=descriptor) as connection:
        # By name: vLLM is no dependency of the package that this file lies in.
        serve(connection, importlib.import_module("vllm"))
    shutil.rmtree(directory, ignore_errors=True)


def end_with(parent: int, directory: Path, seconds: float = 1.0) -> None:
    """Wait for the parent's death; then remove the directory and end this process and those that it started.

    Linux could send a signal instead (PR_SET_PDEATHSIG), but does so already when the parent's *thread* ends.
    """
    while os.getppid() == parent:
        time.sleep(seconds)
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def serve(connection: socket.socket, vllm: Any) -> None:
    """Answer calls until the connection is closed.

    Args:
        vllm: the package.
    """
    send(connection, {"vllm": vllm.__version__})
    engine = None
    while (request := receive(connection)) is not None:
        match request:
            case {"call": "load", "options": options}:
                if engine is not None:
                    engine = None  # two at a time would need twice the memory
                    vllm.distributed.cleanup_dist_env_and_memory()
                engine = vllm.LLM(**options)
                send(connection, {"loaded": True})
            case {"call": "generate", "prompts": prompts, "seeds": seeds, "sampling": sampling}:
                send(connection, generate(vllm, engine, prompts, seeds, sampling))
            case _:
                raise ValueError(f"expected the call load or generate with its arguments, got {sorted(request)}")


def generate(
    vllm: Any, engine: Any, prompts: list[list[int]], seeds: list[int], sampling: dict[str, Any]
) -> dict[str, Any]:
    """One response per prompt, drawn with the seed of the same place; see the module for the answer's form."""
    parameters = [vllm.SamplingParams(seed=seed, logprobs=0, detokenize=False, **sampling) for seed in seeds]
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)
    responses = [output.outputs[0] for output in outputs]
    return {
        "tokens": [list(response.token_ids) for response in responses],
        "logprobs": [
            [places[token].logprob for token, places in zip(response.token_ids, response.logprobs, strict=True)]
            for response in responses
        ],
        "finish_reasons": [response.finish_reason for response in responses],
    }


def pack(message: dict[str, Any]) -> bytes:
    """A message as it travels."""
    content = json.dumps(message, separators=(",", ":")).encode()
    return LENGTH.pack(len(content)) + content


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Write one message."""
    connection.sendall(pack(message))


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Wait for one message; None when the other end is closed."""
    with connection.makefile("rb", buffering=0) as stream:
        if not (head := stream.read(LENGTH.size)):
            return None
        (length,) = LENGTH.unpack(head + _read(stream, LENGTH.size - len(head)))
        message: dict[str, Any] = json.loads(_read(stream, length))
    return message


def _read(stream: Any, length: int) -> bytes:
    parts = []
    while length > 0:
        if not (part := stream.read(length)):
            raise EOFError(f"the connection was closed with {length} bytes of a message to come")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])
