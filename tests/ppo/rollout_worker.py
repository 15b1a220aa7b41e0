"""A stand-in for vllm_worker.py that knows the messages and no vLLM; the standard library only.

It says from the seed what it "samples". FAKE_RECORD names a directory that gets every call as a line of calls.jsonl, a
copy of each policy that was loaded, and the worker's environment. FAKE_FAULT makes it fail:

    exit-at-WHAT   prints `no luck` and ends with code 3; WHAT is start, load or generate
    hang-at-WHAT   sleeps for a minute
    deaf           starts a child that holds the socket too, and goes on when the socket is closed
    bad-FIELD      answers generate with something else in this field
"""

import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

FAULT = os.environ.get("FAKE_FAULT", "")
RECORD = Path(os.environ["FAKE_RECORD"])
REAL = Path(__file__).parents[2] / "bai_pipeline" / "ppo" / "rollouts" / "vllm_worker.py"


def main() -> None:
    descriptor, parent, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    threading.Thread(target=real_worker().end_with, args=(parent, directory, 0.05), daemon=True).start()
    (RECORD / "environment.json").write_text(json.dumps(dict(os.environ)))
    if FAULT == "deaf":
        subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
    misbehave("start")
    connection = socket.socket(fileno=descriptor)
    say(connection, {"vllm": "0.0"})
    while head := connection.recv(8, socket.MSG_WAITALL):
        (length,) = struct.unpack(">Q", head)
        call = json.loads(connection.recv(length, socket.MSG_WAITALL))
        with (RECORD / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(call) + "\n")
        misbehave(call["call"])
        if call["call"] == "load":
            number = len(list(RECORD.glob("policy-*")))
            shutil.copytree(call["options"]["model"], RECORD / f"policy-{number}")
            say(connection, {"loaded": True})
        else:
            say(connection, answer(call["seeds"], call["sampling"]))
    if FAULT == "deaf":
        time.sleep(60)


def answer(seeds: list[int], sampling: dict[str, Any]) -> dict[str, Any]:
    """As many tokens as asked for, all the same."""
    count = sampling["max_tokens"]
    good: dict[str, Any] = {
        "tokens": [[seed % 50] * count for seed in seeds],
        "logprobs": [[-1.5] * count for _ in seeds],
        "finish_reasons": ["length" for _ in seeds],
    }
    bad: dict[str, Any] = {
        "rows": {"tokens": good["tokens"][1:]},
        "length": {"logprobs": [row[1:] for row in good["logprobs"]]},
        "count": {"tokens": [row * 2 for row in good["tokens"]], "logprobs": [row * 2 for row in good["logprobs"]]},
        "emptiness": {"tokens": [[] for _ in seeds], "logprobs": [[] for _ in seeds]},
        "logprob": {"logprobs": [[float("nan")] * count for _ in seeds]},
        "reason": {"finish_reasons": ["abort" for _ in seeds]},
    }
    return {**good, **bad.get(FAULT.removeprefix("bad-"), {})}


def misbehave(what: str) -> None:
    if f"exit-at-{what}" == FAULT:
        print("no luck", file=sys.stderr)
        sys.exit(3)
    if f"hang-at-{what}" == FAULT:
        time.sleep(60)


def say(connection: socket.socket, message: dict[str, Any]) -> None:
    content = json.dumps(message).encode()
    connection.sendall(struct.pack(">Q", len(content)) + content)


def real_worker() -> Any:
    """By path: importing the package would import torch."""
    spec = importlib.util.spec_from_file_location("vllm_worker", REAL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
