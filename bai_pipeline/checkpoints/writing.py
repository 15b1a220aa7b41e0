"""Writing safetensors files and whole directories."""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import xxhash

from bai_pipeline.checkpoints.header import TensorInfo, encode_header
from bai_pipeline.checkpoints.manifest import TensorRecord
from bai_pipeline.errors import CheckpointError


class ShardWriter:
    """Writes one safetensors file from front to back and hashes each tensor on the way. Use it in a `with` block.

    Args:
        file: must not exist.
        tensors: in the order in which their bytes will be written; `start` and `file` are not used.
    """

    def __init__(self, file: Path, tensors: Sequence[TensorInfo]) -> None:
        self.records: dict[str, TensorRecord] = {}
        self._file = file
        self._tensors = tensors
        self._stream = file.open("xb", buffering=0)
        self._write_all(memoryview(encode_header(tensors)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None and len(self.records) != len(self._tensors):
            raise CheckpointError(f"{self._file}: {len(self.records)} of {len(self._tensors)} tensors were written")

    def write(self, tensor: TensorInfo, chunks: Iterator[memoryview]) -> None:
        """Write the bytes of the next tensor."""
        expected = self._tensors[len(self.records)]
        hasher, count = xxhash.xxh3_128(), 0
        for chunk in chunks:
            hasher.update(chunk)
            self._write_all(chunk)
            count += len(chunk)
        if tensor.name != expected.name or count != expected.nbytes:
            got = f"{count} bytes of tensor {tensor.name}"
            raise CheckpointError(f"{self._file}: expected {expected.nbytes} bytes of {expected.name}, got {got}")
        self.records[tensor.name] = TensorRecord(
            dtype=expected.dtype, shape=list(expected.shape), xxh3_128=hasher.hexdigest()
        )

    def _write_all(self, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += self._stream.write(data[done:])


@contextmanager
def whole_or_absent(destination: Path) -> Iterator[Path]:
    """A directory beside `destination` that takes its place, synced to disk, when the block ends without an error.

    Raises:
        CheckpointError: the destination exists.
    """
    if destination.exists() or destination.is_symlink():
        raise CheckpointError(f"{destination}: already exists; nothing was written")
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        _sync(partial)
        partial.rename(destination)
        _sync_one(destination.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def emptied_on_failure(directory: Path) -> Iterator[None]:
    """An empty directory that is empty again when the block ends with an error.

    Raises:
        CheckpointError: it is not an empty directory.
    """
    if not directory.is_dir() or any(directory.iterdir()):
        raise CheckpointError(f"{directory}: expected an empty directory to write into; nothing was written")
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            for entry in directory.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _sync(directory: Path) -> None:
    for entry in directory.rglob("*"):
        _sync_one(entry)
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
