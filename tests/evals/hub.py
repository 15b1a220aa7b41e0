"""A stand-in for the Hugging Face hub: as much of its API, on loopback, as downloading a dataset's files needs.

Files whose name ends in .parquet are stored as the hub stores large ones: `resolve` redirects to another path.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"


@dataclass
class Repository:
    """A dataset: commits in order, the last one is the branch main."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False
    """Open to who sends TOKEN only, but listed for everybody."""
    private: bool = False
    """Not there for who does not send TOKEN."""
    cut_once: set[str] = field(default_factory=set)
    """Paths whose next download ends half-way."""
    shorter: set[str] = field(default_factory=set)
    """Paths of which less is sent than was announced."""
    changed: set[str] = field(default_factory=set)
    """Paths of which other bytes are sent, as many."""


@dataclass
class Hub:
    """The datasets that are served, and what was asked for."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Plain files outside the hub's API, by path."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method, path) of every request."""


def commit_of(number: int) -> str:
    """A made-up commit."""
    return hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()


def dataset(files: dict[str, bytes]) -> Repository:
    """An open dataset of one commit."""
    return Repository({commit_of(1): files})


def online(endpoint: str, home: Path, token: str | None = TOKEN) -> dict[str, str]:
    """An environment in which the hub is another one and may be reached."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    kept.pop("HF_TOKEN", None)
    return kept | ({"HF_TOKEN": token} if token else {})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub in a thread of this process."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:
            return None

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            parts = path.strip("/").split("/")
            if parts[0] == "api" and parts[1] == "datasets":
                self._information("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
            elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
                self._resolve("/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
            elif parts[0] == "storage":
                self._content("/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
            elif path in hub.files:
                self._send(hub.files[path], {})
            else:
                self._fail(404, None)

        def _information(self, name: str, revision: str) -> None:
            if (found := self._commit(name, revision, listing=True)) is None:
                return
            commit, files = found
            siblings = []
            for path, content in files.items():
                sibling = {"rfilename": path, "size": len(content), "blobId": _git_sha1(content)}
                if _is_large(path):
                    lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
                    sibling |= {"lfs": lfs, "blobId": _git_sha1(b"pointer")}
                siblings.append(sibling)
            self._send(json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode(), {})

        def _resolve(self, name: str, revision: str, path: str) -> None:
            if (found := self._commit(name, revision, listing=False)) is None:
                return
            commit, files = found
            if path not in files:
                self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            elif _is_large(path):
                headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(files[path]))}
                headers["X-Linked-ETag"] = f'"{hashlib.sha256(files[path]).hexdigest()}"'
                headers["Location"] = f"{hub.endpoint}/storage/{name}/{commit}/{path}"
                self._send(b"", headers, status=302)
            else:
                self._content(name, commit, path)

        def _content(self, name: str, commit: str, path: str) -> None:
            repository = hub.repositories[name]
            content = repository.commits[commit][path]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_sha1(content)}"'}
            if self.command == "GET":
                if path in repository.changed:
                    content = content[::-1]
                if path in repository.shorter:
                    content = content[: len(content) // 2]
                if path in repository.cut_once:
                    repository.cut_once.remove(path)
                    self._send(content, headers, sent=len(content) // 2)
                    return
            self._send(content, headers)

        def _commit(self, name: str, revision: str, *, listing: bool) -> tuple[str, dict[str, bytes]] | None:
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and not known):
                self._fail(404 if known else 401, "RepoNotFound")
                return None
            if repository.gated and not known and not listing:
                self._fail(401, "GatedRepo")
                return None
            commit = list(repository.commits)[-1] if revision == "main" else revision
            if commit not in repository.commits:
                self._fail(404, "RevisionNotFound")
                return None
            return commit, repository.commits[commit]

        def _send(self, content: bytes, headers: dict[str, str], *, status: int = 200, sent: int | None = None) -> None:
            start = 0
            if (asked := self.headers.get("Range")) and self.command == "GET":
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                status = 206
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[start:sent])
                if sent is not None:
                    self.close_connection = True

        def _fail(self, status: int, code: str | None, headers: dict[str, str] | None = None) -> None:
            self._send(b"", (headers or {}) | ({"X-Error-Code": code} if code else {}), status=status)

    return Handler


def _is_large(path: str) -> bool:
    return path.endswith(".parquet")


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
