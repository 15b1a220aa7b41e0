"""Tensors of an object in object storage without its files: only the byte ranges that are asked for are read.

A ranged directory has every file of the object but the data of its safetensors files, of which only the headers are
here: another reader finds them cut, never zeros. `.ranged.json` says where the data is:

    {"bucket": LOCATION, "files": {FILE: [NAME IN THE BUCKET, SIZE]}}
"""

import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bai_pipeline.errors import StoreError

if TYPE_CHECKING:
    from bai_pipeline.store.bucket import Bucket

MARKER: Final = ".ranged.json"
MAX_HEADER_BYTES: Final = 100_000_000
READ_AHEAD_BYTES: Final = 1024**3
"""Bytes of tensors that are held at a time, unless a single one is larger."""
_FIRST = 256 * 1024
"""Most headers are shorter, and come with the first request."""
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class RangedFile:
    """A safetensors file in object storage."""

    bucket: "Bucket"
    name: str
    size: int

    @contextmanager
    def fetched(self, start: int, length: int) -> Iterator[int]:
        """A descriptor of memory that has the file's bytes from `start` on in their places, and nothing else.

        Waits where others hold too much; the memory is given back at the end.

        Raises:
            StoreError: the bytes cannot be read.
        """
        with _BUDGET.taken(length):
            descriptor = os.memfd_create("tensor", os.MFD_CLOEXEC)
            try:
                os.ftruncate(descriptor, start + length)
                position = start
                for piece in self.bucket.stream(self.name, start, length):
                    position += _write(descriptor, piece, position)
                yield descriptor
            finally:
                os.close(descriptor)


def ranged_file(file: Path) -> RangedFile | None:
    """Where the data of a file of a ranged directory is; None for any other file."""
    return _ranged_files(file.parent).get(file.name)


def write_ranged_directory(
    bucket: "Bucket", prefix: str, files: Mapping[str, tuple[int, str]], directory: Path
) -> None:
    """Fill an empty directory: headers of safetensors files, and every other file, verified.

    Args:
        prefix: of the files' names in the bucket.
        files: path -> (size, XXH3-128).

    Raises:
        StoreError: a file is missing or damaged.
    """
    from bai_pipeline.store.bucket import REQUESTS
    from bai_pipeline.store.snapshots import fetch_file

    def fetch(name: str) -> None:
        size, digest = files[name]
        if name.endswith(_SUFFIX):
            _fetch_header(bucket, prefix + name, directory / name, size)
        else:
            fetch_file(bucket, prefix + name, directory / name, size, digest)

    with ThreadPoolExecutor(REQUESTS) as pool:
        for _ in pool.map(fetch, files):
            pass
    places: dict[Path, dict[str, tuple[str, int]]] = {}
    for name, (size, _) in files.items():
        if name.endswith(_SUFFIX):
            path = directory / name
            places.setdefault(path.parent, {})[path.name] = (prefix + name, size)
    for place, content in places.items():
        (place / MARKER).write_text(json.dumps({"bucket": bucket.location, "files": content}), encoding="utf-8")


def _fetch_header(bucket: "Bucket", name: str, path: Path, size: int) -> None:
    first = bucket.read(name, 0, min(size, _FIRST))
    length = 8 + struct.unpack("<Q", first[:8])[0] if size >= 8 else size
    if length > min(size, 8 + MAX_HEADER_BYTES):
        raise StoreError(f"{bucket.location}/{name}: the header length is {length - 8} in a file of {size} bytes")
    rest = bucket.read(name, len(first), max(0, length - len(first)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(first[:length])
        file.write(rest)


@lru_cache(maxsize=256)
def _ranged_files(directory: Path) -> dict[str, RangedFile]:
    """A directory never becomes a ranged one, nor stops being one: it is made whole beside its place."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    from bai_pipeline.store.bucket import Bucket

    bucket = Bucket(marker["bucket"])
    return {file: RangedFile(bucket, name, size) for file, (name, size) in marker["files"].items()}


def _write(descriptor: int, piece: memoryview, position: int) -> int:
    done = 0
    while done < len(piece):
        done += os.pwrite(descriptor, piece[done:], position + done)
    return done


class _Budget:
    """Bytes that threads may hold together."""

    def __init__(self, total: int) -> None:
        self._total, self._held = total, 0
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """Hold so many bytes. A thread that holds some already is never kept waiting: it could wait for itself."""
        mine = getattr(self._own, "held", 0)
        with self._changed:
            self._changed.wait_for(lambda: mine or not self._held or self._held + amount <= self._total)
            self._held += amount
        self._own.held = mine + amount
        try:
            yield
        finally:
            self._own.held = mine
            with self._changed:
                self._held -= amount
                self._changed.notify_all()


_BUDGET = _Budget(READ_AHEAD_BYTES)
