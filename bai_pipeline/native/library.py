"""Native code (native.cpp) for float32 on a CPU, one thread, through ctypes: products, and what decoding takes.

It is built when the package is built or installed, where there is a C++ compiler (hatch_build.py).
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

LIBRARY: Final = Path(__file__).with_name("_native.so")
_VERSION = 2
_UNLIMITED = float(torch.finfo(torch.float32).max)
_Pointer, _Long, _Float = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


@cache
def load_native() -> "Native | None":
    """The native code, if it was built from this version's source."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    return Native(library) if library.bai_native_version() == _VERSION else None


class Native:
    """For decoding: N rows of one token each, hidden size C, H heads of width D, H_kv of keys and values."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._product, self._norm = library.bai_product, library.bai_norm
        self._attend, self._experts = library.bai_attend, library.bai_experts
        self._product.argtypes = [
            *(_Pointer, _Long, _Long, _Pointer, _Long, _Long),
            *(_Long, _Long, _Long, _Pointer),
        ]
        self._norm.argtypes = [_Pointer, _Pointer, _Float, _Long, _Long, _Pointer]
        self._attend.argtypes = [
            *(_Pointer, _Long, _Long, _Long, _Long),
            *(_Pointer, _Pointer, _Float, _Float, _Pointer, _Pointer, _Pointer, _Pointer, _Long, _Long, _Pointer),
        ]
        self._experts.argtypes = [
            *(_Pointer, _Long, _Long, _Pointer, _Pointer, _Long),
            *(_Pointer, _Pointer, _Long, _Long, _Pointer),
        ]
        self._product.restype = self._norm.restype = None
        self._attend.restype = self._experts.restype = _Long

    def product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        """out (M, N), contiguous, = a (M, K) b (K, N), of any strides.

        An element depends on its row of `a` and its column of `b` alone, to the bit.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        (rows, depth), columns = a.shape, b.shape[1]
        if b.shape[0] != depth or out.shape != (rows, columns):
            raise ValueError(f"{tuple(a.shape)} times {tuple(b.shape)} is no {tuple(out.shape)}")
        left, right = _address(a), _address(b)
        self._product(left, *a.stride(), right, *b.stride(), rows, depth, columns, _floats(out))

    def norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """Root-mean-square norm (Zhang and Sennrich 2019, arXiv:1910.07467) of `x` (N, C)."""
        out = torch.empty_like(x)
        self._norm(_floats(x), _floats(weight), epsilon, *x.shape, _floats(out))
        return out

    def attend(
        self,
        projected: Tensor,
        norms: tuple[Tensor, Tensor],
        epsilon: float,
        limit: float | None,
        rotations: Tensor,
        lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        end: int,
    ) -> Tensor:
        """Attention (N, H D) of one new token a row, which becomes column `end` - 1 of the cache.

        Args:
            projected: (N, (H + 2 H_kv) D), queries, keys and values before their norms.
            norms: of all queries and of all keys of a token together, (H D,) and (H_kv D,).
            limit: of the absolute values of normed queries, normed keys and values; None: there is none.
            rotations: (capacity, 2, D), cosines and sines by position, the sines of the first half negative.
            lengths: (N,), tokens that a row has in the columns before.
            keys, values: (N, H_kv, capacity, D).

        Raises:
            IndexError: a row has no column left for its token.
        """
        rows, kv_heads, capacity, width = keys.shape
        out = projected.new_empty(rows, projected.shape[1] - 2 * kv_heads * width)
        fault = self._attend(
            *(_floats(projected), rows, out.shape[1] // width, kv_heads, width),
            *map(_floats, norms),
            epsilon,
            _UNLIMITED if limit is None else limit,
            *(_floats(rotations), _longs(lengths), _floats(keys), _floats(values), capacity, end, _floats(out)),
        )
        if fault:
            raise IndexError(f"row {fault - 1} has {int(lengths[fault - 1])} tokens, and {end} columns are in use")
        return out

    def experts(self, hidden: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        """Output (N, C) on `hidden` (N, C): the experts `chosen` (N, k), weighted by `weights` (N, k).

        Args:
            gate_up: (E, C, 2 F), of E experts F wide.
            down: (E, F, C).

        Raises:
            IndexError: there is no such expert.
        """
        out = torch.empty_like(hidden)
        count, inner, _ = down.shape
        fault = self._experts(
            *(_floats(hidden), *hidden.shape, _longs(chosen), _floats(weights), chosen.shape[1]),
            *(_floats(gate_up), _floats(down), count, inner, _floats(out)),
        )
        if fault:
            raise IndexError(f"expert {int(chosen.view(-1)[fault - 1])} was chosen of {count}")
        return out


def _floats(tensor: Tensor) -> int:
    return _contiguous(tensor, torch.float32)


def _longs(tensor: Tensor) -> int:
    return _contiguous(tensor, torch.int64)


def _contiguous(tensor: Tensor, dtype: torch.dtype) -> int:
    if not tensor.is_contiguous():
        raise TypeError(f"expected a contiguous {dtype} tensor on the CPU, got {tensor.dtype} of {tensor.stride()}")
    return _address(tensor, dtype)


def _address(tensor: Tensor, dtype: torch.dtype = torch.float32) -> int:
    if tensor.dtype != dtype or tensor.device.type != "cpu":
        raise TypeError(f"expected a {dtype} tensor on the CPU, got {tensor.dtype} on {tensor.device}")
    return tensor.data_ptr()
