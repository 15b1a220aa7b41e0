"""Headers: the same as the reference implementation on good files, a named fault on bad ones."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bai_pipeline.checkpoints import encode_header, read_header
from bai_pipeline.errors import CheckpointError

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write_raw(file: Path, header: Any, data: int = 8, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data))
    return file


def test_a_header_reads_like_the_reference_implementation(tmp_path: Path) -> None:
    tensors: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones((2, 2), dtype=np.float16),
        "none": np.ones((0, 4), dtype=np.int64),
        "scalar": np.array(7.0),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)

    found = read_header(file)

    content = file.read_bytes()
    for name, expected in load_file(file).items():
        assert found[name].shape == expected.shape
        assert content[found[name].start :][: found[name].nbytes] == expected.tobytes()
    assert {tensor.name: tensor.dtype for tensor in found.values()} == {
        "a": "F16",
        "b": "F32",
        "none": "I64",
        "scalar": "F64",
    }


def test_an_encoded_header_is_the_reference_implementations(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({f"wéights.{n}": np.zeros((n, 2), dtype=np.float32) for n in range(1, 5)}, file, {"format": "pt"})

    header = encode_header(list(read_header(file).values()))

    assert file.read_bytes().startswith(header)
    assert len(header) % 8 == 0


MALFORMED: list[tuple[str, Any, dict[str, int], str]] = [
    ("a header length beyond the file", {"w": GOOD}, {"length": 10_000}, "header length is 10000"),
    ("a header length beyond 64 bits of sense", {"w": GOOD}, {"length": 2**63}, "header length is 9223372036854775808"),
    ("no JSON", b"{nonsense", {}, "not valid JSON"),
    ("no UTF-8", b'{"\xff": 1}', {}, "not valid JSON"),
    ("a list", [1, 2], {}, "is a JSON list, expected an object"),
    ("nesting without end", b"[" * 200_000, {}, "not valid JSON"),
    ("a name twice", b'{"w": {}, "w": {}}', {}, "key 'w' comes twice"),
    ("an entry that is no object", {"w": 3}, {}, "tensor w: expected dtype, shape and two data_offsets, got 3"),
    ("an entry with no shape", {"w": {"dtype": "F32", "data_offsets": [0, 8]}}, {}, "tensor w: expected dtype, shape"),
    ("an entry with a foreign key", {"w": {**GOOD, "strides": [1]}}, {}, "tensor w: expected dtype, shape"),
    ("an unknown dtype", {"w": {**GOOD, "dtype": "Q4"}}, {}, "tensor w: unknown dtype 'Q4'"),
    ("a negative size", {"w": {**GOOD, "shape": [-2]}}, {}, "tensor w: shape [-2]"),
    ("a fractional size", {"w": {**GOOD, "shape": [2.0]}}, {}, "tensor w: shape [2.0]"),
    ("a true size", {"w": {**GOOD, "shape": [True, 2]}}, {}, "tensor w: shape [True, 2]"),
    ("a dtype of another size", {"w": {**GOOD, "dtype": "BF16"}}, {}, "tensor w: BF16 of shape [2] takes 4 bytes"),
    ("a shape of another size", {"w": {**GOOD, "shape": [3]}}, {}, "takes 12 bytes, data_offsets [0, 8] hold 8"),
    ("an absurd shape", {"w": {**GOOD, "shape": [2**40, 2**40]}}, {}, "tensor w: F32 of shape"),
    ("offsets backwards", {"w": {**GOOD, "data_offsets": [8, 0]}}, {}, "data_offsets [8, 0] hold -8"),
    (
        "offsets out of range",
        {"w": {**GOOD, "shape": [4], "data_offsets": [0, 16]}},
        {},
        "tensor w: data_offsets [0, 16]",
    ),
    ("a hole", {"w": {**GOOD, "data_offsets": [8, 16]}}, {"data": 16}, "tensor w: data_offsets [8, 16] leave a hole"),
    ("bytes of nobody", {"w": GOOD}, {"data": 24}, "16 bytes at the end belong to no tensor"),
    (
        "an overlap",
        {"v": GOOD, "w": {**GOOD, "data_offsets": [4, 12]}},
        {"data": 12},
        "tensor w: data_offsets [4, 12] overlap the tensor before it, which ends at 8",
    ),
]


@pytest.mark.parametrize(("header", "how", "message"), [case[1:] for case in MALFORMED], ids=[c[0] for c in MALFORMED])
def test_a_malformed_header_is_refused(tmp_path: Path, header: Any, how: dict[str, int], message: str) -> None:
    file = write_raw(tmp_path / "model.safetensors", header, **how)

    with pytest.raises(CheckpointError) as caught:
        read_header(file)

    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize("size", [0, 7])
def test_a_file_shorter_than_a_header_length_is_refused(tmp_path: Path, size: int) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match="expected at least 8 bytes"):
        read_header(file)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    save_file({"v": np.zeros(5, dtype=np.float32), "w": np.zeros(3, dtype=np.float16)}, whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            read_header(cut)


def test_damaged_headers_raise_nothing_but_checkpoint_errors(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"v": np.zeros(5, dtype=np.float32), "w": np.zeros((2, 3), dtype=np.float16)}, file)
    content = file.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(content) - 32)] = rng.choice(b'\x00\xff"[]{},:0123456789ab')
        file.write_bytes(damaged)
        try:
            read_header(file)
        except CheckpointError:
            refused += 1
    assert refused > 250
