"""A safetensors checkpoint: its tensors by name, read in chunks.

Chunks are read with `preadv` into the caller's buffer: a memory map would count all the checkpoint's pages as resident.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from bai_pipeline.checkpoints.directory import CONFIG_FILE, read_json_object, read_tensors
from bai_pipeline.checkpoints.header import ITEM_SIZES, TensorInfo
from bai_pipeline.errors import CheckpointError, StoreError, StoreUnavailable
from bai_pipeline.store.ranged import ranged_file

CHUNK_ELEMENTS: Final = 64 * 1024
"""Elements per chunk: a float32 copy is 256 KiB, so that those of a few models stay in a core's cache."""


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory whose headers and sizes have been checked; `tensors` is in shard and file order."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    config: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the index, every header and config.json; no tensor.

        Raises:
            CheckpointError: a part is missing or malformed; the message names file and tensor.
        """
        tensors = read_tensors(path)
        return cls(path, MappingProxyType(tensors), MappingProxyType(read_json_object(path, CONFIG_FILE)))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def shards(self) -> dict[str, list[TensorInfo]]:
        """The tensors of each file by the file's name, in the order of their bytes."""
        shards: dict[str, list[TensorInfo]] = {}
        for tensor in self.tensors.values():
            shards.setdefault(tensor.file.name, []).append(tensor)
        return shards


@contextmanager
def open_tensor(tensor: TensorInfo) -> Iterator[int]:
    """A descriptor in which the tensor's bytes are at `tensor.start`: of its file, or of memory that they are read to.

    Raises:
        OSError: the file cannot be opened.
        CheckpointError: it is in object storage, and is not there any more.
        StoreUnavailable: it is in object storage, which cannot be asked now.
    """
    elsewhere = ranged_file(tensor.file)
    if elsewhere is None:
        descriptor = os.open(tensor.file, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(elsewhere.fetched(tensor.start, tensor.nbytes))
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise CheckpointError(f"{tensor.file}: tensor {tensor.name}: {error}") from error
        yield descriptor


class Reader:
    """Reads chunks of tensors; opens each file once, when it is first read. Use it in a `with` block.

    Of files in object storage it holds one tensor at a time.
    """

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._fetched: TensorInfo | None = None
        self._memory = ExitStack()
        self._descriptor = -1
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._memory.close()
        self._fetched = None

    def read_chunk(self, tensor: TensorInfo, element: int, buffer: memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from its flat element on.

        Raises:
            CheckpointError: the file has become shorter than its header says.
        """
        descriptor = self._open(tensor)
        position = tensor.start + element * ITEM_SIZES[tensor.dtype]
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], position + done)
            if count == 0:
                raise CheckpointError(f"{tensor.file}: tensor {tensor.name}: the file ends inside it; it has been cut")
            done += count

    def _open(self, tensor: TensorInfo) -> int:
        if tensor is self._fetched:
            return self._descriptor
        if tensor.file in self._descriptors:
            return self._descriptors[tensor.file]
        if ranged_file(tensor.file) is None:
            descriptor = self._descriptors[tensor.file] = os.open(tensor.file, os.O_RDONLY)
            return descriptor
        self._memory.close()
        self._descriptor, self._fetched = self._memory.enter_context(open_tensor(tensor)), tensor
        return self._descriptor

    def chunks(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The tensor's bytes in order, at most CHUNK_ELEMENTS elements at a time; each view is valid until the next."""
        item = ITEM_SIZES[tensor.dtype]
        if len(self._buffer) < CHUNK_ELEMENTS * item:
            self._buffer = bytearray(CHUNK_ELEMENTS * item)
        for element in range(0, tensor.elements, CHUNK_ELEMENTS):
            view = memoryview(self._buffer)[: min(CHUNK_ELEMENTS, tensor.elements - element) * item]
            self.read_chunk(tensor, element, view)
            yield view
