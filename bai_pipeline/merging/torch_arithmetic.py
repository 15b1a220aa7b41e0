"""Every method in torch, behind `arithmetic.Arithmetic`.

torch's float32 multiplication and addition are correctly rounded, and its conversion to a narrower dtype rounds to
nearest, ties to even: where the native kernel can compute the same, the bytes are the same.
"""

import ctypes
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from bai_pipeline.checkpoints import first_non_finite
from bai_pipeline.merging.arithmetic import Buffers, Fault, Refill
from bai_pipeline.merging.methods import SCAN_ELEMENTS, Place
from bai_pipeline.merging.program import Apply, Program

TORCH_DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


_BLOCK: Final = 256 * 1024
"""Elements that are computed at a time, measured: with a quarter the calls cost a third more than the work."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = 256 * 1024 * 1024
"""Bytes; some chunks for every thread."""


@contextmanager
def torch_in_threads() -> Iterator[None]:
    """Make torch fit for many threads that each compute chunks: none of its operations starts threads of its own, and
    the C library keeps the memory of freed chunks, which would otherwise be given back and faulted in again each time
    (a fifth of a merge's time; stays so until the process ends)."""
    libc, before = ctypes.CDLL(None), torch.get_num_threads()
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT // 8)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchArithmetic:
    """All methods."""

    def bind(
        self, program: Program, buffers: Buffers, tensor: str, ranges: Sequence[tuple[int, int]], refill: Refill
    ) -> "BoundTorch":
        """See `Arithmetic.bind`; the facts of inner nodes are found before those of the nodes above them."""
        bound = BoundTorch(program, buffers, tensor)
        for number, step in enumerate(program.steps):
            if step.method.scan is not None:
                scan = _Scan(bound, number, ranges, refill)
                bound.facts[number] = step.method.scan(scan, step.weights, step.params)
        return bound


class BoundTorch:
    """A program over the buffers of one tensor, and the facts that its methods know of it."""

    def __init__(self, program: Program, buffers: Buffers, tensor: str) -> None:
        self.program = program
        self.facts: dict[int, Any] = {}
        self._buffers = buffers
        self._tensor = tensor
        self._uses = Counter([*(value for step in program.steps for value in step.inputs), *program.outputs])

    def __call__(self, start: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        for first in range(0, count, _BLOCK):
            fault = self._run(start, first, min(_BLOCK, count - first), outputs)
            if fault is not None:
                return fault
        return None

    def _run(self, start: int, first: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        """The elements of the chunk from its `first` on."""
        fault = self._buffers.first_fault(first, count, self.program.silent)
        if fault is not None:
            return fault
        values = self.values(start, count, len(self.program.steps), first)
        dtype = self._buffers.output_dtype
        for number, (value, output) in enumerate(zip(self.program.outputs, outputs, strict=True)):
            view = Buffers.part(output, dtype, first, count)
            torch.frombuffer(view, dtype=TORCH_DTYPES[dtype]).copy_(values[value])
            position = first_non_finite(view, dtype)
            if position is not None:
                everywhere = range(len(self.program.models))
                return self._buffers.first_fault(first, count, everywhere) or Fault("output", number, first + position)
        return None

    def values(self, start: int, count: int, steps: int, first: int = 0) -> list[Tensor]:
        """The models' elements and the values of the first `steps` steps, (E,) float32 each.

        Args:
            start: flat position of the chunk in the tensor.
            first, count: which of the chunk.
        """
        buffers = self._buffers
        values = []
        for view, dtype, there in zip(buffers.inputs, buffers.dtypes, buffers.present, strict=True):
            value = torch.empty(count if there else 0)
            if there:  # copy_ is three times as fast as .to(float32)
                value.copy_(torch.frombuffer(Buffers.part(view, dtype, first, count), dtype=TORCH_DTYPES[dtype]))
            values.append(value)
        for number, step in enumerate(self.program.steps[:steps]):
            values.append(self._apply(number, step, [values[i] for i in step.inputs], start + first))
        return values

    def _apply(self, number: int, step: Apply, inputs: Sequence[Tensor], start: int) -> Tensor:
        disposable = frozenset(i for i, value in enumerate(step.inputs) if self._uses[value] == 1)
        place = Place(self._tensor, step.names, start, step.params, self.facts.get(number), disposable)
        return step.method.combine(inputs, step.weights, place)


class _Scan:
    """The inputs of one step, from the front of the tensor at each call."""

    def __init__(self, bound: BoundTorch, number: int, ranges: Sequence[tuple[int, int]], refill: Refill) -> None:
        self._bound, self._number, self._ranges, self._refill = bound, number, ranges, refill

    def __call__(self) -> Iterator[list[Tensor]]:
        inputs = self._bound.program.steps[self._number].inputs
        for first, last in self._ranges:
            for start in range(first, last, SCAN_ELEMENTS):
                count = min(SCAN_ELEMENTS, last - start)
                self._refill(start, count)
                values = self._bound.values(start, count, self._number)
                yield [values[i] for i in inputs]
