"""The native kernel itself: its conversions, its hash, and what it says of files that fail."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xxhash

from bai_pipeline.merging import hashing
from bai_pipeline.merging.arithmetic import Buffers, Fault
from bai_pipeline.merging.hashing import NativeHash, new_hash
from bai_pipeline.merging.kernel import PIECE, BoundKernel, Ends, load_kernel
from bai_pipeline.merging.program import copy_program

ITEM = {"F32": 4, "BF16": 2, "F16": 2}


def converter(source: str, target: str, memory: bytearray) -> BoundKernel:
    """Copies one input of dtype `source`, which lies in `memory`, to `target`."""
    kernel = load_kernel()
    assert kernel is not None
    buffers = Buffers((memoryview(memory),), (source,), (True,), target)
    return kernel.bind(copy_program(["x"], "x", 1), buffers, "x", [], lambda start, count: None)


def test_every_float16_becomes_the_float32_of_its_value_and_comes_back() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    bits = bits[(bits & 0x7C00) != 0x7C00]
    wide, again = bytearray(4 * len(bits)), bytearray(2 * len(bits))
    assert converter("F16", "F32", bytearray(bits.tobytes()))(0, len(bits), [memoryview(wide)]) is None
    expected = bits.view(np.float16).astype(np.float32)
    assert (np.frombuffer(wide, np.uint32) == expected.view(np.uint32)).all()
    assert converter("F32", "F16", wide)(0, len(bits), [memoryview(again)]) is None
    assert (np.frombuffer(again, np.uint16) == bits).all()


def test_float32_is_rounded_to_float16_as_numpy_rounds_it() -> None:
    rng = np.random.default_rng(0)
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float64)
    between = (halves[:-1] + halves[1:]) / 2  # exactly in the middle: to even
    values = np.concatenate([between, -between, rng.standard_normal(200_000) * 10.0 ** rng.integers(-9, 4, 200_000)])
    singles = np.concatenate([values.astype(np.float32), np.nextafter(between.astype(np.float32), np.float32(0))])
    out = bytearray(2 * len(singles))
    assert converter("F32", "F16", bytearray(singles.tobytes()))(0, len(singles), [memoryview(out)]) is None
    assert (np.frombuffer(out, np.uint16) == singles.astype(np.float16).view(np.uint16)).all()


@pytest.mark.parametrize("value", [65519.996, -65519.996])
def test_what_rounds_to_the_largest_float16_is_in_range_and_the_next_is_not(value: float) -> None:
    beyond = np.float32(np.sign(value) * 65520)
    out = bytearray(4)
    inside = bytearray(np.array([0, value], np.float32).tobytes())
    assert converter("F32", "F16", inside)(0, 2, [memoryview(out)]) is None
    assert np.frombuffer(out, np.float16)[1] == np.sign(value) * 65504
    outside = bytearray(np.array([0, beyond], np.float32).tobytes())
    assert converter("F32", "F16", outside)(0, 2, [memoryview(out)]) == Fault("output", 0, 1)


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0xFFC00000])
def test_infinity_and_every_kind_of_nan_is_found(bits: int) -> None:
    values = np.zeros(1500, np.uint32)
    values[[1203, 1400]] = bits
    bound = converter("F32", "F32", bytearray(values.tobytes()))
    assert bound(0, 1500, [memoryview(bytearray(6000))]) == Fault("input", 0, 1203)


def test_a_native_hash_is_the_packages_hash() -> None:
    data = bytearray(np.random.default_rng(0).bytes(100_003))
    native = new_hash()
    assert isinstance(native, NativeHash)
    for start in range(0, len(data), 7919):
        native.update(memoryview(data)[start : start + 7919])
    assert native.hexdigest() == xxhash.xxh3_128(bytes(data)).hexdigest()
    assert new_hash().hexdigest() == xxhash.xxh3_128(b"").hexdigest()


def test_where_the_package_exports_no_library_its_own_object_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_library", lambda: None)
    plain = new_hash()
    assert not isinstance(plain, NativeHash)
    plain.update(memoryview(bytearray(b"abc")))
    assert plain.hexdigest() == xxhash.xxh3_128(b"abc").hexdigest()


def test_a_stream_reads_hashes_and_writes_what_lies_between(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal(3 * PIECE + 17).astype(np.float32)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"head" + values.tobytes() + b"tail")
    target.write_bytes(b"12345678")
    bound = converter("F32", "F32", bytearray(4 * PIECE))
    read, written, buffer = new_hash(), new_hash(), memoryview(bytearray(4 * PIECE))
    reader, writer = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY)
    assert bound.stream(len(values), Ends([reader], [4], [read]), Ends([writer], [2], [written]), [buffer]) is None
    assert target.read_bytes() == b"12" + values.tobytes()
    digest = xxhash.xxh3_128(values.tobytes()).hexdigest()
    assert (read.hexdigest(), written.hexdigest()) == (digest, digest)

    end = Fault("input file", 0, 0)
    assert bound.stream(len(values) + 5, Ends([reader], [4], [None]), Ends([writer], [0], [None]), [buffer]) == end
    os.close(writer)
    closed = Fault("output file", 0, 9)  # EBADF
    assert bound.stream(1, Ends([reader], [4], [None]), Ends([writer], [0], [None]), [buffer]) == closed
    os.close(reader)
    closed = Fault("input file", 0, 9)
    assert bound.stream(1, Ends([reader], [4], [None]), Ends([writer], [0], [None]), [buffer]) == closed


def test_a_merge_by_the_kernel_imports_neither_torch_nor_numpy() -> None:
    """Its peak memory would double, and its start take a second."""
    code = (
        "import sys, bai_pipeline.cli.merge, bai_pipeline.merging.destination, bai_pipeline.merging.kernel as k\n"
        "assert k.load_kernel() is not None\n"
        "print(*{'torch', 'numpy', 'pydantic', 'transformers', 'typer'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
