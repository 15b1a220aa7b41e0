"""Where the elements of one tensor of a merge go: files, or memory."""

from collections.abc import Sequence
from typing import Protocol

from bai_pipeline.checkpoints import ITEM_SIZES, OpenTensor
from bai_pipeline.merging.buffers import congruent
from bai_pipeline.merging.hashing import Hash, new_hash
from bai_pipeline.merging.kernel import Ends


class Outputs(Protocol):
    """One place for each recipe."""

    @property
    def hashes(self) -> Sequence[Hash | None]:
        """Of what is written; None where it is not hashed."""

    def places(self, start: int, count: int) -> Sequence[memoryview]:
        """Where to compute `count` elements from flat position `start` on."""

    def keep(self, start: int, count: int) -> None:
        """They have been computed."""

    def ends(self, start: int) -> Ends:
        """What the kernel needs to put the elements from flat position `start` on where they belong, on its own."""

    def failed(self, number: int, code: int) -> Exception:
        """The error for an output that cannot be written, by the system's error number."""


class FileOutputs:
    """A tensor of the files that are being written; everything that is written is hashed."""

    def __init__(self, files: Sequence[OpenTensor], dtype: str, buffers: Sequence[memoryview]) -> None:
        self.hashes: list[Hash] = [new_hash() for _ in files]
        self._files, self._item = files, ITEM_SIZES[dtype]
        self._buffers = [buffer[congruent(file.position) :] for file, buffer in zip(files, buffers, strict=True)]

    def places(self, start: int, count: int) -> Sequence[memoryview]:
        return self._buffers

    def keep(self, start: int, count: int) -> None:
        for file, buffer, digest in zip(self._files, self._buffers, self.hashes, strict=True):
            view = buffer[: count * self._item]
            digest.update(view)
            file.write(view, start * self._item)

    def ends(self, start: int) -> Ends:
        positions = [file.position + start * self._item for file in self._files]
        return Ends([file.descriptor for file in self._files], positions, self.hashes)

    def failed(self, number: int, code: int) -> Exception:
        return self._files[number].failed(code)


class MemoryOutput:
    """One tensor, in memory."""

    def __init__(self, content: memoryview, dtype: str) -> None:
        self.hashes: list[Hash | None] = [None]
        self._content, self._item = content, ITEM_SIZES[dtype]

    def places(self, start: int, count: int) -> Sequence[memoryview]:
        return [self._content[start * self._item : (start + count) * self._item]]

    def keep(self, start: int, count: int) -> None:
        return None

    def ends(self, start: int) -> Ends:
        return Ends([-1], [0], self.hashes)

    def failed(self, number: int, code: int) -> Exception:
        raise AssertionError("memory is never written to as a file")
