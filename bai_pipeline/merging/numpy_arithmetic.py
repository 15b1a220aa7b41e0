"""Linear programs in numpy, behind `arithmetic.Arithmetic`: what computes them where the native kernel was not built.

numpy is loaded in a tenth of the time that torch takes, which is a third of a merge. Its float32 multiplication and
addition are correctly rounded as well, so that the bytes are those of the kernel and of torch.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bai_pipeline.merging.arithmetic import Buffers, Fault, Refill
from bai_pipeline.merging.program import Apply, Program

_BLOCK: Final = 256 * 1024
"""Elements that are computed at a time, measured: with 16 Ki a merge takes three times as long, for threads wait
wherever numpy hands back to Python."""

_DTYPES: Final[dict[str, Any]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""numpy has no bfloat16: its bits are the upper half of a float32's."""

_LIMITS: Final = {"F32": np.float32(np.inf), "F16": np.float32(65520), "BF16": np.uint32(0x7F7F_8000).view(np.float32)}
"""The least float32 that rounds to infinity."""


class NumpyArithmetic:
    """Linear programs."""

    def bind(
        self, program: Program, buffers: Buffers, tensor: str, ranges: Sequence[tuple[int, int]], refill: Refill
    ) -> "BoundNumpy":
        """See `Arithmetic.bind`; a linear program needs to know nothing of the tensor."""
        return BoundNumpy(program, buffers)


class BoundNumpy:
    """A program over the buffers of one tensor, and memory for the values of a block."""

    def __init__(self, program: Program, buffers: Buffers) -> None:
        self._program, self._buffers = program, buffers
        self._uses = Counter([*(value for step in program.steps for value in step.inputs), *program.outputs])
        self._memory = np.empty((len(program.models) + len(program.steps) + 1, _BLOCK), np.float32)

    def __call__(self, start: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        with np.errstate(all="ignore"):  # what is not finite is looked for
            for first in range(0, count, _BLOCK):
                fault = self._run(first, min(_BLOCK, count - first), outputs)
                if fault is not None:
                    return fault
        return None

    def _run(self, first: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        """The elements of the chunk from its `first` on."""
        program, buffers = self._program, self._buffers
        fault = buffers.first_fault(first, count, program.silent)
        if fault is not None:
            return fault
        *memory, spare = (row[:count] for row in self._memory)
        values = memory[: len(program.models)]
        for number, there in enumerate(buffers.present):
            if there:
                view = buffers.part(buffers.inputs[number], buffers.dtypes[number], first, count)
                _load(values[number], view, buffers.dtypes[number])
        for step, own in zip(program.steps, memory[len(program.models) :], strict=True):
            values.append(self._sum(step, values, own, spare))
        # Storing overwrites a value, unless another output is the same one.
        last = {value: number for number, value in enumerate(program.outputs)}
        for number, (value, output) in enumerate(zip(program.outputs, outputs, strict=True)):
            position = _first_out_of_range(values[value], buffers.output_dtype)
            if position is not None:
                everywhere = range(len(program.models))
                return buffers.first_fault(first, count, everywhere) or Fault("output", number, first + position)
            bits = values[value] if last[value] == number else values[value].copy()
            _store(buffers.part(output, buffers.output_dtype, first, count), bits, spare, buffers.output_dtype)
        return None

    def _sum(
        self,
        step: Apply,
        values: Sequence[NDArray[np.float32]],
        own: NDArray[np.float32],
        spare: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """See `methods.linear.linear`. Computed in the memory of the first term if nothing else needs that."""
        terms = [(value, np.float32(weight)) for value, weight in zip(step.inputs, step.weights, strict=True) if weight]
        (first, weight), *rest = terms
        total = values[first] if self._uses[first] == 1 else own
        np.multiply(values[first], weight, out=total)
        for value, weight in rest:
            product = values[value] if self._uses[value] == 1 else spare
            np.multiply(values[value], weight, out=product)
            total += product
        return total


def _load(to: NDArray[np.float32], view: memoryview, dtype: str) -> None:
    elements = np.frombuffer(view, _DTYPES[dtype])
    if dtype == "BF16":
        bits = to.view(np.uint32)
        np.copyto(bits, elements)
        bits <<= 16
    else:
        np.copyto(to, elements)


def _first_out_of_range(values: NDArray[np.float32], dtype: str) -> int | None:
    """The position of the first value that is NaN, or infinite when rounded to the dtype."""
    limit = _LIMITS[dtype]
    if values.max() < limit and values.min() > -limit:  # false also where there is a NaN
        return None
    return int((~(np.abs(values) < limit)).argmax())


def _store(to: memoryview, values: NDArray[np.float32], spare: NDArray[np.float32], dtype: str) -> None:
    """Round finite values to nearest, ties to even; overwrites them."""
    elements = np.frombuffer(to, _DTYPES[dtype])
    if dtype == "BF16":
        bits, odd = values.view(np.uint32), spare.view(np.uint32)
        np.right_shift(bits, 16, out=odd)
        odd &= 1
        odd += 0x7FFF
        bits += odd
        bits >>= 16
        np.copyto(elements, bits, casting="unsafe")
    else:
        np.copyto(elements, values, casting="same_kind")
