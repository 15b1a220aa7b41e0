"""The header of a safetensors file, read without trusting it, and written.

A file is eight bytes N (little-endian), N bytes of JSON and the data:
`{"<tensor>": {"dtype": "BF16", "shape": [64, 32], "data_offsets": [begin, end]}, …}`, offsets counted from the end of
the header (https://github.com/huggingface/safetensors#format). The data has neither overlaps nor holes.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from bai_pipeline.checkpoints.listing import short
from bai_pipeline.errors import CheckpointError
from bai_pipeline.store.ranged import ranged_file

ITEM_SIZES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes per element of each dtype."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the reference implementation; the header of a 600 B MoE has some 10 MB."""

MAX_NAME_CHARACTERS: Final = 1024
MAX_DIMENSIONS: Final = 64
"""Of a tensor: as many as numpy and torch have."""


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies; `start` is the absolute position of its first byte in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * ITEM_SIZES[self.dtype]


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file in the order of their bytes.

    Raises:
        CheckpointError: the file cannot be read; the header is cut, too long or not JSON; a tensor's name cannot be
            shown, or its dtype, shape and offsets disagree with each other, with the other tensors or with the size of
            the file.
    """
    with reading(file), file.open("rb", buffering=0) as stream:
        elsewhere = ranged_file(file)
        size = os.fstat(stream.fileno()).st_size if elsewhere is None else elsewhere.size
        prefix = stream.read(8)
        if len(prefix) < 8:
            _refuse(file, f"expected at least 8 bytes of header length, the file has {size}")
        (length,) = struct.unpack("<Q", prefix)
        limit = min(MAX_HEADER_BYTES, size - 8)
        if length > limit:
            _refuse(file, f"the header length is {length}, expected at most {limit} in a file of {size} bytes")
        raw = stream.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(file, f"the header is not valid JSON: {error}")
    if not isinstance(header, dict):
        _refuse(file, f"the header is a JSON {type(header).__name__}, expected an object")
    header.pop("__metadata__", None)
    tensors = [_tensor(file, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.nbytes))
    _check_layout(file, tensors, 8 + length, size)
    return {tensor.name: tensor for tensor in tensors}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed read into an error that names the file.

    Raises:
        CheckpointError: it has vanished, or may not or cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def check_name(file: Path, tensor: str) -> None:
    """A tensor's name comes into messages, logs and other files: it must be text that can be shown.

    Raises:
        CheckpointError: it is empty, too long, or holds control characters or half a surrogate pair.
    """
    if not tensor or len(tensor) > MAX_NAME_CHARACTERS or not tensor.isprintable():
        message = f"expected a name of 1 to {MAX_NAME_CHARACTERS} printable characters, got {len(tensor)} characters"
        _refuse(file, message, short(tensor))


def encode_header(tensors: Sequence[TensorInfo]) -> bytes:
    """The header of a file that holds these tensors one after the other, padded to a multiple of eight bytes.

    The bytes are those that the reference implementation writes; `start` and `file` of the tensors are not used.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _tensor(file: Path, name: str, entry: object, data: int) -> TensorInfo:
    check_name(file, name)
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            pass
        case _:
            _refuse(file, f"expected dtype, shape and two data_offsets, got {short(entry)}", name)
    if dtype not in ITEM_SIZES:
        _refuse(file, f"unknown dtype {short(dtype)}", name)
    if not all(_is_count(n) for n in (*shape, begin, end)):
        offsets = short([begin, end])
        _refuse(file, f"shape {short(shape)} and data_offsets {offsets} must be non-negative integers", name)
    if len(shape) > MAX_DIMENSIONS or math.prod(n or 1 for n in shape) * ITEM_SIZES[dtype] >= 2**63:
        limits = f"at most {MAX_DIMENSIONS} dimensions and less than 2^63 bytes"
        _refuse(file, f"{dtype} of shape {short(shape)} ({len(shape)} dimensions), expected {limits}", name)
    tensor = TensorInfo(name, dtype, tuple(shape), file, data + begin)
    if end - begin != tensor.nbytes:
        needs = f"{dtype} of shape {short(shape)} takes {tensor.nbytes} bytes"
        _refuse(file, f"{needs}, data_offsets {[begin, end]} hold {end - begin}", name)
    return tensor


def _check_layout(file: Path, tensors: Sequence[TensorInfo], data: int, size: int) -> None:
    """Each tensor begins where the one before it ends, and the last one ends with the file."""
    position = data
    for tensor in tensors:
        offsets = f"data_offsets {[tensor.start - data, tensor.start - data + tensor.nbytes]}"
        if tensor.start < position:
            _refuse(file, f"{offsets} overlap the tensor before it, which ends at {position - data}", tensor.name)
        if tensor.start > position:
            _refuse(file, f"{offsets} leave a hole after {position - data}", tensor.name)
        position = tensor.start + tensor.nbytes
        if position > size:
            _refuse(file, f"{offsets} are out of range, the file holds {size - data} bytes of data", tensor.name)
    if position != size:
        _refuse(file, f"{size - position} bytes at the end belong to no tensor")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError when a key comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"key {short(name)} comes twice")
            seen.add(name)
    return found


def _refuse(file: Path, message: str, tensor: str | None = None) -> NoReturn:
    where = f"{file}: tensor {tensor}" if tensor is not None else str(file)
    raise CheckpointError(f"{where}: {message}")
