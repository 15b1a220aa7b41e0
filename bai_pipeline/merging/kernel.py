"""The native kernel (kernel.cpp) behind `arithmetic.Arithmetic`, through ctypes. Imports neither torch nor numpy.

It is built when the package is built or installed, where there is a C++ compiler (hatch_build.py). ctypes releases the
interpreter's lock during a call, so that threads compute side by side.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from bai_pipeline.checkpoints import ITEM_SIZES
from bai_pipeline.merging.arithmetic import Buffers, Fault, Refill
from bai_pipeline.merging.hashing import Hash, NativeHash, update_function
from bai_pipeline.merging.program import Apply, Program

LIBRARY: Final = Path(__file__).with_name("_kernel.so")
_VERSION = 6
_UNREADABLE, _UNWRITABLE = 1 << 16, 1 << 17
PIECE: Final = 128 * 1024
"""Elements that `BoundKernel.stream` reads of each input at a time."""
_DTYPES = {"F32": 0, "BF16": 1, "F16": 2}
_OPS = ("LOAD", "SCALE", "ADD", "STORE", "TAKE", "GIVE", "PAIR", "MIX", "BLEND")
"""In the order of kernel.cpp."""


class _Instruction(ctypes.Structure):
    """See kernel.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("op", "to", "a", "b", "c")),
        *((name, ctypes.c_float) for name in ("u", "v", "w", "t")),
    )


_Pointers, _Ints, _Longs = map(ctypes.POINTER, (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64))


class _Stream(ctypes.Structure):
    """See kernel.cpp."""

    _fields_ = (
        ("program", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("length", "registers", "input_count", "output_count")),
        ("inputs", _Pointers),
        ("input_dtypes", _Ints),
        ("input_files", _Ints),
        ("input_positions", _Longs),
        ("input_hashes", _Pointers),
        ("outputs", _Pointers),
        ("output_dtypes", _Ints),
        ("output_files", _Ints),
        ("output_positions", _Longs),
        ("output_hashes", _Pointers),
        ("update", ctypes.c_void_p),
    )


@cache
def load_kernel() -> "Kernel | None":
    """The kernel, if it was built from this version's source."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    if library.bai_kernel_version() != _VERSION:
        return None
    library.bai_piece.restype = ctypes.c_int64
    return Kernel(library) if library.bai_piece() == PIECE else None  # else it would write beyond our buffers


class Kernel:
    """Linear programs in native code."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def bind(
        self, program: Program, buffers: Buffers, tensor: str, ranges: Sequence[tuple[int, int]], refill: Refill
    ) -> "BoundKernel":
        """See `Arithmetic.bind`; a linear program needs to know nothing of the tensor."""
        return BoundKernel(self._library, program, buffers)


@dataclass(frozen=True)
class Ends:
    """Where a stream's elements come from, or go to, one entry per input or output."""

    descriptors: Sequence[int]
    """Open files; -1 for an output that is memory."""
    positions: Sequence[int]
    """The byte in each file at which the elements begin."""
    hashes: Sequence[Hash | None]
    """Updated with the bytes; all `NativeHash`."""


class BoundKernel:
    """A program's instructions and the addresses of its inputs."""

    def __init__(self, library: ctypes.CDLL, program: Program, buffers: Buffers) -> None:
        translator = _Translator(program, buffers)
        instructions = translator.translate()
        self._library, self._buffers = library, buffers  # the buffers are kept alive: the kernel has addresses only
        self._code = (_Instruction * len(instructions))(*instructions)
        self._registers = translator.registers
        self._inputs = (ctypes.c_void_p * len(buffers.inputs))(*map(_address, buffers.inputs))
        self._input_dtypes = _ints(_DTYPES[dtype] for dtype in buffers.dtypes)
        self._output_dtypes = _ints([_DTYPES[buffers.output_dtype]] * len(program.outputs))
        self._where = ctypes.c_int64()

    def __call__(self, start: int, count: int, outputs: Sequence[memoryview]) -> Fault | None:
        places = (ctypes.c_void_p * len(outputs))(*map(_address, outputs))
        code = self._library.bai_merge(
            self._code,
            ctypes.c_int32(len(self._code)),
            ctypes.c_int32(self._registers),
            self._inputs,
            self._input_dtypes,
            places,
            self._output_dtypes,
            ctypes.c_int64(count),
            ctypes.byref(self._where),
        )
        return self._fault(code)

    def stream(self, count: int, source: Ends, target: Ends, outputs: Sequence[memoryview]) -> Fault | None:
        """Read, hash, compute, hash and write `count` elements, without coming back to Python in between.

        Args:
            outputs: of an output that goes to a file, a buffer; of one that is memory, room for all elements.
        """
        for view, dtype in zip(self._buffers.inputs, self._buffers.dtypes, strict=True):
            if len(view) < min(count, PIECE) * ITEM_SIZES[dtype]:
                raise ValueError(f"expected input buffers of {min(count, PIECE)} elements")
        present = self._buffers.present
        files = [d if there else -1 for d, there in zip(source.descriptors, present, strict=True)]
        stream = _Stream(
            ctypes.cast(self._code, ctypes.c_void_p),
            len(self._code),
            self._registers,
            len(files),
            len(outputs),
            self._inputs,
            self._input_dtypes,
            _ints(files),
            (ctypes.c_int64 * len(files))(*source.positions),
            _states(source.hashes),
            (ctypes.c_void_p * len(outputs))(*map(_address, outputs)),
            self._output_dtypes,
            _ints(target.descriptors),
            (ctypes.c_int64 * len(outputs))(*target.positions),
            _states(target.hashes),
            update_function(),
        )
        code = self._library.bai_stream(ctypes.byref(stream), ctypes.c_int64(count), ctypes.byref(self._where))
        return self._fault(code)

    def _fault(self, code: int) -> Fault | None:
        if code == 0:
            return None
        if code >= _UNWRITABLE:
            return Fault("output file", code - _UNWRITABLE, self._where.value)
        if code >= _UNREADABLE:
            return Fault("input file", code - _UNREADABLE, self._where.value)
        return Fault("input" if code > 0 else "output", abs(code) - 1, self._where.value)


class _Translator:
    """Makes instructions of a program.

    Every model that is there is loaded by some instruction, for its values are checked as they are loaded. A model in
    bfloat16 has no register: the instructions that use it convert it on the way.
    """

    def __init__(self, program: Program, buffers: Buffers) -> None:
        self.code: list[_Instruction] = []
        self.registers = 1
        """Of which 0 takes turns as the place of what is only stored."""
        self._program, self._buffers = program, buffers
        self._needed = {value for step in program.steps for value in step.inputs}
        self._places: dict[int, int] = {}
        self._taken: set[int] = set()
        self._blended: set[int] = set()
        """Values that are computed inside the one that uses them."""

    def translate(self) -> list[_Instruction]:
        models = range(len(self._program.models))
        self._find_blends(len(models))
        for model in models:
            if self._buffers.present[model] and not self._is_bfloat(model):
                self._load(model, self._new_register())
        for model in models:
            if model in self._program.outputs:
                if model not in self._places:
                    self._load(model, self._new_register())
                self._store(model)
        for value, step in enumerate(self._program.steps, len(models)):
            terms = _terms(step)
            if value not in self._blended and not self._mixed(value, terms):
                self._places[value] = self._new_register() if value in self._needed else 0
                self._sum(self._places[value], terms)
                self._store(value)
        for model in models:
            if self._buffers.present[model] and model not in self._taken:
                self._load(model, 0)
        return self.code

    def _find_blends(self, first: int) -> None:
        """A sum of two models that only one result uses, as the partner of a third model, is computed with it."""
        steps = dict(enumerate(self._program.steps, first))
        for value, step in steps.items():
            match _terms(step):
                case [(a, u), (inner, t)] if self._is_bfloat(a) and self._is_only_for(inner, value):
                    parts = _terms(steps[inner])
                case _:
                    continue
            if len(parts) == 2 and all(self._is_bfloat(part) for part, _ in parts):
                (b, v), (c, w) = parts
                (output,) = self._stored(value)
                self.code.append(_Instruction(_OPS.index("BLEND"), output, a, b, c, u, v, w, t))
                self._blended |= {value, inner}
                self._taken |= {a, b, c}

    def _is_only_for(self, inner: int, value: int) -> bool:
        """Whether the step of `value` alone uses this step's value, and is itself only stored, once, in bfloat16."""
        uses = [
            number for number, step in enumerate(self._program.steps, len(self._program.models)) if inner in step.inputs
        ]
        stored_once = value not in self._needed and len(self._stored(value)) == 1 and not self._stored(inner)
        is_step = inner >= len(self._program.models)
        return is_step and uses == [value] and stored_once and self._buffers.output_dtype == "BF16"

    def _mixed(self, value: int, terms: list[tuple[int, float]]) -> bool:
        """Whether the value could be written at once: it is only stored, and a model and something else make it up."""
        if value in self._needed or len(terms) != 2 or self._buffers.output_dtype != "BF16":
            return False
        (model, u), (other, v) = terms
        if not self._is_bfloat(model) or other not in self._places:
            return False
        for number in self._stored(value):
            self._emit("MIX", number, model, self._places[other], u, v)
        return True

    def _sum(self, to: int, terms: list[tuple[int, float]]) -> None:
        direct = [self._is_bfloat(value) and value not in self._places for value, _ in terms]
        if direct[:2] == [True, True]:
            (a, u), (b, v) = terms[:2]
            self._emit("PAIR", to, a, b, u, v)
            terms, direct, first = terms[2:], direct[2:], False
        else:
            first = True
        for (value, weight), is_direct in zip(terms, direct, strict=True):
            if is_direct:
                self._emit("TAKE" if first else "GIVE", to, value, 0, weight)
            else:
                self._emit("SCALE" if first else "ADD", to, self._places[value], 0, weight)
            first = False

    def _load(self, model: int, register: int) -> None:
        self._places[model] = register
        self._emit("LOAD", register, model)

    def _store(self, value: int) -> None:
        for number in self._stored(value):
            self._emit("STORE", number, self._places[value])

    def _stored(self, value: int) -> list[int]:
        return [number for number, output in enumerate(self._program.outputs) if output == value]

    def _emit(self, op: str, to: int, a: int, b: int = 0, u: float = 0.0, v: float = 0.0) -> None:
        self.code.append(_Instruction(_OPS.index(op), to, a, b, 0, u, v, 0.0, 0.0))
        if op in ("LOAD", "TAKE", "GIVE", "PAIR", "MIX"):
            self._taken.add(a)
        if op == "PAIR":
            self._taken.add(b)

    def _is_bfloat(self, value: int) -> bool:
        return value < len(self._program.models) and self._buffers.dtypes[value] == "BF16"

    def _new_register(self) -> int:
        self.registers += 1
        return self.registers - 1


def _terms(step: Apply) -> list[tuple[int, float]]:
    """What a step adds up: values and weights; what weighs nothing is left out."""
    return [(value, weight) for value, weight in zip(step.inputs, step.weights, strict=True) if weight != 0.0]


def _ints(values: Iterable[int]) -> "ctypes.Array[ctypes.c_int32]":
    values = list(values)
    return (ctypes.c_int32 * len(values))(*values)


def _states(hashes: Sequence[Hash | None]) -> "ctypes.Array[ctypes.c_void_p]":
    states = [one.state if isinstance(one, NativeHash) else None for one in hashes]
    return (ctypes.c_void_p * len(states))(*states)


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
