"""Answers that a model has already given, so that an evaluation that was killed, or is asked for more, goes on.

    <directory>/<model>.jsonl     one answer a line: {"key": SHA-256 of what was asked, …the answer}

Lines are appended as answers come; a line that a kill cut short is skipped and asked again. Two processes may append to
the same file.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Answers by what was asked."""

    def __init__(self, path: Path) -> None:
        """Read what is there; the file is made with the first answer."""
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._torn = False
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._torn = bool(text) and not text.endswith("\n")
            for line in text.splitlines():
                entry = _entry(line)
                if entry is not None:
                    self._known[entry.pop("key")] = entry

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer to what was asked under this key."""
        return self._known.get(key)

    def add(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep answers by their keys, on the disk before this returns."""
        if not answers:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"key": key, **answer}) + "\n" for key, answer in answers.items())
        data = (("\n" if self._torn else "") + lines).encode()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._torn = False
        self._known.update({key: dict(answer) for key, answer in answers.items()})


def key_of(**asked: Any) -> str:
    """A digest of everything that an answer depends on."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("key"), str) else None
