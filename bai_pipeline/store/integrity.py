"""Whether the files of an object are those of its table; bytes that were read before are not read again."""

import json
from collections.abc import Mapping
from pathlib import Path

from bai_pipeline.errors import StoreError
from bai_pipeline.store.files import write_atomically
from bai_pipeline.store.objects import hash_file

Files = Mapping[str, tuple[int, str]]
"""Relative path -> (size in bytes, XXH3-128)."""


def check_files(uri: str, directory: Path, files: Files, memory: Path, *, every_byte: bool) -> None:
    """Compare sizes always, and bytes where a file's (size, mtime, inode) is not as `memory` has it.

    Raises:
        StoreError: a file is missing or damaged; the message names it.
    """
    known = _read_memory(memory)
    changed = False
    for name, (size, digest) in files.items():
        path = directory / name
        if not path.is_file():
            raise StoreError(f"{uri} is incomplete: {name} is missing")
        if path.stat().st_size != size:
            raise StoreError(f"{uri} is damaged: {name} has {path.stat().st_size} bytes, expected {size}")
        if every_byte or known.get(name) != identity_of(path):
            changed = True
            if hash_file(path) != digest:
                raise StoreError(f"{uri} is damaged: the bytes of {name} do not match its digest {digest}")
    if changed:
        remember_files(directory, files, memory)


def remember_files(directory: Path, files: Files, memory: Path) -> None:
    """Write down that the bytes of these files have just been read, or written, and are right."""
    stats = {name: identity_of(directory / name) for name in files}
    write_atomically(memory, json.dumps(_read_memory(memory) | stats))


def identity_of(path: Path) -> list[int]:
    """What changes when a file is written: size, mtime and inode."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _read_memory(memory: Path) -> dict[str, list[int]]:
    try:
        known: dict[str, list[int]] = json.loads(memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known
