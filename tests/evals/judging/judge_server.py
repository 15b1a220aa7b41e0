"""A real HTTP server on loopback that speaks the chat completions protocol and does what a test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}


@dataclass(frozen=True)
class Reply:
    """What the server sends back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    """Seconds before anything is sent."""
    dropped: bool = False
    """Half the body is sent, then the connection ends."""


@dataclass(frozen=True)
class Asked:
    """A request that arrived."""

    path: str
    authorization: str | None
    body: dict[str, Any]
    at: float

    @property
    def user(self) -> str:
        """The first user turn."""
        return str(next(message["content"] for message in self.body["messages"] if message["role"] == "user"))


Behaviour = Callable[[Asked, int], Reply]
"""From a request and its number (0, 1, …) to the reply."""


def says(text: str | None, usage: object = USAGE, finish_reason: str = "stop") -> Reply:
    """A completion; `usage` None: the field is absent."""
    content = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}]
    }
    return Reply(body=json.dumps(content | ({} if usage is None else {"usage": usage})).encode())


def fails(status: int, message: str, **headers: str) -> Reply:
    """An error in OpenAI's form; Retry_After becomes the header Retry-After."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"error": {"message": message, "type": "test"}}).encode(), named)


class JudgeServer(ThreadingHTTPServer):
    """Records what is asked and replies as `behaviour` says."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away (after a time-out) is what some tests want."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, self.headers.get("Authorization"), body, time.monotonic())
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(asked)
        reply = self.server.behaviour(asked, number)
        self.server.closing.wait(reply.delay)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if reply.dropped else reply.body)
        self.close_connection = self.close_connection or reply.dropped

    def log_message(self, format: str, *args: object) -> None:
        return None


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[JudgeServer]:
    """The server, until the end of the block."""
    with JudgeServer(behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
