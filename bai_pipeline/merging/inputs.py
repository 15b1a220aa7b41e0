"""The inputs of one tensor of a merge.

Chunks are read with `pread` into buffers that are used again: a memory map would count all pages of the checkpoints as
resident.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice

from bai_pipeline.checkpoints import ITEM_SIZES, TensorInfo, first_non_finite, open_tensor
from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging.buffers import MAX_THREADS, congruent
from bai_pipeline.merging.hashing import Hash, new_hash
from bai_pipeline.merging.kernel import Ends
from bai_pipeline.merging.plan import MergePlan
from bai_pipeline.store.ranged import ranged_file


def threads_for(plan: MergePlan) -> int:
    """How many threads a merge has: one a core; where tensors come over a network, as many as may wait for them."""
    remote = any(
        ranged_file(tensor.file) is not None
        for model in plan.models
        for tensor in islice(plan.checkpoints[model].tensors.values(), 1)
    )
    return MAX_THREADS if remote else min(MAX_THREADS, len(os.sched_getaffinity(0)))


class Inputs:
    """The merged models' versions of one tensor, open for reading, and a buffer for the present chunk of each."""

    def __init__(
        self,
        models: Sequence[str],
        tensors: Sequence[TensorInfo],
        buffers: Sequence[memoryview],
        descriptors: Sequence[int],
        hashed: Collection[str],
    ) -> None:
        self.models, self.tensors = models, tensors
        self.buffers = tuple(buffer[congruent(tensor.start) :] for tensor, buffer in zip(tensors, buffers, strict=True))
        self.hashes: list[Hash | None] = [new_hash() if model in hashed else None for model in models]
        self._descriptors = descriptors

    @classmethod
    @contextmanager
    def open(
        cls, plan: MergePlan, name: str, buffers: Sequence[memoryview], hashed: Collection[str]
    ) -> Iterator["Inputs"]:
        """Open the files that hold the tensor; of files in object storage, read its bytes.

        Args:
            hashed: the models whose bytes are hashed, all of them and in order.

        Raises:
            CheckpointError: a file has vanished, or object storage cannot be read.
        """
        tensors = [plan.checkpoints[model].tensors[name] for model in plan.models]
        with ExitStack() as stack:
            descriptors = []
            for tensor in tensors:
                try:
                    descriptors.append(stack.enter_context(open_tensor(tensor)))
                except OSError as error:
                    raise CheckpointError(
                        f"{tensor.file}: cannot be read any more: {error.strerror}; no checkpoint was written"
                    ) from error
            yield cls(plan.models, tensors, buffers, descriptors, hashed)

    def have(self, stop: int) -> tuple[bool, ...]:
        """Of each model: whether it has all elements before `stop`."""
        return tuple(tensor.elements >= stop for tensor in self.tensors)

    def ends(self, start: int) -> Ends:
        """What the kernel needs to read on its own from flat position `start` on."""
        positions = [tensor.start + start * ITEM_SIZES[tensor.dtype] for tensor in self.tensors]
        return Ends(self._descriptors, positions, self.hashes)

    def fill(self, number: int, start: int, count: int) -> memoryview:
        """Read a chunk of one model into its buffer and return the part that is filled.

        Raises:
            CheckpointError: the file has become shorter, or cannot be read.
        """
        tensor = self.tensors[number]
        item = ITEM_SIZES[tensor.dtype]
        view, position, done = self.buffers[number][: count * item], tensor.start + start * item, 0
        while done < len(view):
            try:
                got = os.preadv(self._descriptors[number], [view[done:]], position + done)
            except OSError as error:
                raise self.unreadable(number, error.errno or 0) from error
            if got == 0:
                raise self.unreadable(number, 0)
            done += got
        return view

    def take(self, number: int, start: int, count: int) -> memoryview:
        """`fill`, and hash what was read if the model is hashed."""
        view, digest = self.fill(number, start, count), self.hashes[number]
        if digest is not None:
            digest.update(view)
        return view

    def check_finite(self, number: int, start: int, view: memoryview) -> None:
        """Refuse NaN and infinity.

        Raises:
            CheckpointError: there is one in the chunk that starts at flat position `start`.
        """
        position = first_non_finite(view, self.tensors[number].dtype)
        if position is not None:
            raise self.not_finite(number, start + position)

    def not_finite(self, number: int, position: int) -> CheckpointError:
        return CheckpointError(
            f"{self._where(number)}: expected finite values, got NaN or infinity at flat position {position}; no "
            "checkpoint was written"
        )

    def unreadable(self, number: int, code: int) -> CheckpointError:
        """The error for a file that gave the system's error of this number, or ended (0)."""
        what = f"cannot be read: {os.strerror(code)}" if code else "the file ends inside it: it was cut meanwhile"
        return CheckpointError(f"{self._where(number)}: {what}; no checkpoint was written")

    def _where(self, number: int) -> str:
        tensor = self.tensors[number]
        return f"{tensor.file}: tensor {tensor.name} of {self.models[number]}"
