"""The judge's answers on disk: one JSON file per request, named by the request's content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bai_pipeline.jobspec import canonical_json
from bai_pipeline.store.files import write_atomically

Messages = tuple[Mapping[str, str], ...]
"""A conversation: role and content of each turn."""


@dataclass(frozen=True)
class ChatRequest:
    """What is asked of the judge; the server's address is no part of it."""

    model: str
    messages: Messages
    temperature: float
    max_tokens: int

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of the request."""
        return hashlib.sha256(canonical_json(self.body()).encode("utf-8", "surrogatepass")).hexdigest()

    def body(self) -> dict[str, object]:
        """The JSON that is sent."""
        return {
            "model": self.model,
            "messages": [dict(message) for message in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }

    def encoded(self) -> bytes:
        """The bytes that are sent (ASCII, so that a lone surrogate in an answer can be sent too)."""
        return json.dumps(self.body()).encode("ascii")


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Completion:
    """One answer of the judge."""

    text: str
    """Empty where the server sent no content."""
    finish_reason: str | None
    usage: Usage | None
    """None: the server reported none."""


def read_usage(value: object) -> Usage | None:
    """The `usage` of an answer; None where it is absent or not two token counts."""
    if not isinstance(value, dict):
        return None
    prompt, completion = (_count(value.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(prompt, completion) if prompt is not None and completion is not None else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class CompletionCache:
    """Answers below a directory. Several threads and processes may use it at once: a file is whole or absent."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, digest: str) -> Completion | None:
        """The answer to a request; None where there is none, or its file is damaged or is another request's."""
        try:
            content = json.loads(self._path(digest).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(content, dict) or content.get("request") != digest:
            return None
        text, reason, usage = (content.get(name) for name in ("text", "finish_reason", "usage"))
        if not isinstance(text, str) or not (reason is None or isinstance(reason, str)):
            return None
        return Completion(text, reason, read_usage(usage))

    def keep(self, digest: str, completion: Completion) -> Completion:
        """Write an answer unless another process has been faster; returns the one that stands."""
        standing = self.read(digest)
        if standing is None:
            # ASCII: a lone surrogate in an answer is no reason to lose it
            content = json.dumps({"request": digest, **asdict(completion)}, indent=1, sort_keys=True)
            write_atomically(self._path(digest), content + "\n")
            standing = completion
        return standing

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.json"
