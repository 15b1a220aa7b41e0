"""What a linear merge is, by definition, in numpy: the engine must give the same bits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Floats = np.ndarray[Any, np.dtype[np.float32]]


def nearest_bfloat16(values: Floats) -> Floats:
    """By definition: the nearer of the two neighbours, of equally near ones that with an even last bit."""
    below = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = ((below.view(np.uint32) >> 16) + np.uint32(1) << 16).astype(np.uint32).view(np.float32)
    to_below = np.abs(values.astype(np.float64) - below)
    to_above = np.abs(above.astype(np.float64) - values)
    odd = (below.view(np.uint32) >> 16) & 1 == 1
    return np.where((to_above < to_below) | ((to_above == to_below) & odd), above, below).astype(np.float32)


def rounded(values: Floats, dtype: torch.dtype) -> Floats:
    if dtype == torch.bfloat16:
        return nearest_bfloat16(values)
    return values if dtype == torch.float32 else values.astype(np.float16).astype(np.float32)


def weighted_sum(arrays: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """In float32, product by product, in the given order."""
    total = np.float32(weights[0]) * arrays[0]
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        product = np.float32(weight) * array
        total = total + product
    return np.asarray(total, dtype=np.float32)
