"""Float32 products on AMD's CPUs with AVX-512: native code in the place of torch's.

torch multiplies with MKL, which uses AVX-512 on Intel's CPUs alone; others do less than half of what they can.
What computes a model stays as it is, forward and backward, `grouped_mm` of experts included: only the kernel of the
operator under all of that, `aten::mm`, is another one.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.library import Library, get_kernel

from bai_pipeline.native.library import load_native

SMALLEST: Final = 2**18
"""Multiplications below which calling native code costs more than it saves."""
FEWEST_ROWS, FEWEST_COLUMNS = 32, 8
"""Below which most of a tile would be idle, or packing the right matrix the most of the work."""


@cache
def use_native_products() -> Library | None:
    """Let native code multiply float32 matrices in this process from now on, where torch's own is slower.

    It does while torch computes on one thread; results differ from torch's by rounding.

    Returns:
        what replaced torch's kernels; None on another CPU, or where native code was not built.
    """
    native = load_native()
    return replace_products(native.product) if native is not None and mkl_is_held_back() else None


def mkl_is_held_back() -> bool:
    """Whether torch multiplies by MKL on a CPU whose AVX-512 that does not use."""
    cpu = torch.cpu.get_capabilities()
    return torch.backends.mkl.is_available() and "AMD" in cpu.get("cpu_name", "") and cpu.get("avx512_f", False)  # type: ignore[no-untyped-call]


def replace_products(multiply: Callable[[Tensor, Tensor, Tensor], None]) -> Library:
    """Give `aten::mm` a kernel that leaves to torch's what is small or slim, not float32, or for several threads.

    Args:
        multiply: writes the product of two matrices into a third, as `Native.product` does.

    Returns:
        kernels last as long as this does.
    """
    mm, mm_out = (get_kernel(name, "CPU") for name in ("aten::mm", "aten::mm.out"))

    def product(keys: Any, a: Tensor, b: Tensor) -> Tensor:
        if not _fit(a, b):
            result: Tensor = mm.call_boxed(keys, a, b)
            return result
        out = a.new_empty(a.shape[0], b.shape[1])
        multiply(a, b, out)
        return out

    def product_into(keys: Any, a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        if _fit(a, b) and out.shape == (a.shape[0], b.shape[1]) and out.is_contiguous() and out.dtype == a.dtype:
            multiply(a, b, out)
        else:
            mm_out.call_boxed(keys, a, b, out=out)
        return out

    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that kernels are replaced
        library.impl("mm", product, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
        library.impl("mm.out", product_into, "CPU", with_keyset=True)  # type: ignore[no-untyped-call]
    return library


def _fit(a: Tensor, b: Tensor) -> bool:
    if not a.dtype == b.dtype == torch.float32 or not a.dim() == b.dim() == 2 or a.shape[1] != b.shape[0]:
        return False
    (rows, depth), columns = a.shape, b.shape[1]
    large = rows >= FEWEST_ROWS and columns >= FEWEST_COLUMNS and rows * depth * columns >= SMALLEST
    return large and torch.get_num_threads() == 1
