"""What the engine asks of whoever computes: a program bound to buffers, run chunk by chunk."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.program import Program

Backend = Literal["auto", "kernel", "torch"]
"""`auto`: the native kernel for what is linear, where it was built; torch for everything else. The bytes are equal."""


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
    """The native kernel or torch."""

    def bind(
        self, program: Program, buffers: Buffers, tensor: str, ranges: Sequence[tuple[int, int]], refill: Refill
    ) -> Bound:
        """Make a program ready for a tensor, whose elements in `ranges` it will be run over.

        Methods that need facts about the whole tensor read it here, through `refill`.
        """


def ready_for_threads(backend: Backend, programs: Iterable[Program]) -> AbstractContextManager[None]:
    """What must hold while threads run these programs."""
    from bai_pipeline.merging.kernel import load_kernel

    if backend != "torch" and load_kernel() is not None and all(program.is_linear for program in programs):
        return nullcontext()
    from bai_pipeline.merging.torch_arithmetic import torch_in_threads

    return torch_in_threads()


def choose_arithmetic(backend: Backend, program: Program) -> Arithmetic:
    """Who computes a program.

    Raises:
        RecipeError: the kernel was asked for and was not built, or cannot compute this.
    """
    from bai_pipeline.merging.kernel import load_kernel

    kernel = None if backend == "torch" else load_kernel()
    if kernel is not None and program.is_linear:
        return kernel
    if backend == "kernel":
        reason = "it was not built (a C++ compiler and `make setup` build it)"
        if kernel is not None:
            reason = f"it computes linear only, not {', '.join(sorted({s.method.name for s in program.steps}))}"
        raise RecipeError(f"the native kernel cannot be used: {reason}; no checkpoint was written")
    from bai_pipeline.merging.torch_arithmetic import TorchArithmetic

    return TorchArithmetic()
