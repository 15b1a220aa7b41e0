"""What the engine asks of whoever computes: a program bound to buffers, run chunk by chunk."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

from bai_pipeline.checkpoints import ITEM_SIZES, first_non_finite
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.program import Program

Backend = Literal["auto", "kernel", "numpy", "torch"]
"""`auto`: what is linear by the native kernel, or by numpy where that was not built; everything else by torch (which
can compute what is linear as well). The bytes are equal."""


@dataclass(frozen=True)
class Fault:
    """A value that is NaN or infinite, or a file that cannot be read."""

    side: Literal["input", "output", "input file", "output file"]
    number: int
    """Which input or output."""
    position: int
    """Of the first such element in the chunk; of a file, the system's error number, or 0 where it ends."""


@dataclass(frozen=True)
class Buffers:
    """Where a worker finds the chunks of the models; the bytes of the next chunk overwrite those of the last."""

    inputs: tuple[memoryview, ...]
    """Writable, one per model of the program."""
    dtypes: tuple[str, ...]
    """Of the inputs, by their safetensors names."""
    present: tuple[bool, ...]
    """False for a model that does not have the elements: a program must not use it."""
    output_dtype: str

    @staticmethod
    def part(view: memoryview, dtype: str, first: int, count: int) -> memoryview:
        """`count` elements of a buffer from its `first` on."""
        item = ITEM_SIZES[dtype]
        return view[first * item : (first + count) * item]

    def first_fault(self, first: int, count: int, models: Iterable[int]) -> Fault | None:
        """The first NaN or infinity among `count` elements, from the `first` of the chunk on, of these models."""
        for number in models:
            if self.present[number]:
                dtype = self.dtypes[number]
                position = first_non_finite(self.part(self.inputs[number], dtype, first, count), dtype)
                if position is not None:
                    return Fault("input", number, first + position)
        return None


Refill = Callable[[int, int], None]
"""(start, count): fills the input buffers with `count` elements of the tensor from flat position `start` on."""


class Bound(Protocol):
    """A program over the buffers of one tensor."""

    def __call__(self, start: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        """Compute `count` elements from the input buffers.

        Args:
            start: flat position of the first in the tensor.
            outputs: writable, of at least `count` elements each.
        """


class Arithmetic(Protocol):
    """The native kernel, numpy or torch."""

    def bind(
        self, program: Program, buffers: Buffers, tensor: str, ranges: Sequence[tuple[int, int]], refill: Refill
    ) -> Bound:
        """Make a program ready for a tensor, whose elements in `ranges` it will be run over.

        Methods that need facts about the whole tensor read it here, through `refill`.
        """


def ready_for_threads(backend: Backend, programs: Iterable[Program]) -> AbstractContextManager[None]:
    """What must hold while threads run these programs."""
    if backend != "torch" and all(program.is_linear for program in programs):
        return nullcontext()
    from bai_pipeline.merging.torch_arithmetic import torch_in_threads

    return torch_in_threads()


def choose_arithmetic(backend: Backend, program: Program) -> Arithmetic:
    """Who computes a program.

    Raises:
        RecipeError: the kernel or numpy was asked for and cannot compute this, or the kernel was not built.
    """
    if backend in ("kernel", "numpy") and not program.is_linear:
        methods = ", ".join(sorted({step.method.name for step in program.steps}))
        raise RecipeError(
            f"backend {backend!r} cannot be used: it computes linear only, not {methods}; no checkpoint was written"
        )
    if backend == "torch" or not program.is_linear:
        from bai_pipeline.merging.torch_arithmetic import TorchArithmetic

        return TorchArithmetic()
    if backend != "numpy":
        from bai_pipeline.merging.kernel import load_kernel

        kernel = load_kernel()
        if kernel is not None:
            return kernel
    if backend == "kernel":
        raise RecipeError(
            "backend 'kernel' cannot be used: it was not built (a C++ compiler and `make setup` build it); no "
            "checkpoint was written"
        )
    from bai_pipeline.merging.numpy_arithmetic import NumpyArithmetic

    return NumpyArithmetic()
