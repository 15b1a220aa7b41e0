"""Spherical linear interpolation between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.methods.linear import linear
from bai_pipeline.merging.methods.params import float32
from bai_pipeline.merging.methods.registry import SCAN_ELEMENTS, Method, Params, Place, Scan, register

if TYPE_CHECKING:
    from torch import Tensor

PARALLEL: Final = 0.9995
"""From this |cos Ω| on sin Ω is too small to divide by, and the arc is as good as straight (as in mergekit)."""
NO_DIRECTION: Final = 1e-8
"""A tensor of at most this norm points nowhere."""


def arc_weights(cosine: float, weights: Sequence[float]) -> tuple[float, float]:
    """The weights of a and b on the great circle through them (Shoemake 1985, doi:10.1145/325334.325242).

        y = sin((1 − t) Ω) / sin Ω · a + sin(t Ω) / sin Ω · b

    Where |cos Ω| > 0.9995 the weights stay 1 − t and t. Sines differ from one mathematics library to another by a unit
    in the last place of a float64 at most, which rounding to float32 hides.

    Args:
        cosine: cos Ω, the angle between a and b; nan when there is none.
        weights: 1 − t and t.

    Returns:
        Two float32.
    """
    first, second = weights
    if not abs(cosine) <= PARALLEL:
        return float32(first), float32(second)
    angle = math.acos(cosine)
    sine = math.sin(angle)
    return float32(math.sin(first * angle) / sine), float32(math.sin(second * angle) / sine)


def cosine_of(scan: Scan) -> float:
    """cos Ω = a·b / (‖a‖ ‖b‖) over whole tensors; nan when one points nowhere.

    A product of two float32 is exact in float64. Sums are taken in one order everywhere: halves of a block are added
    to each other until one element is left, then the blocks one after another.
    """
    import torch

    aa = bb = ab = 0.0
    for a, b in scan():
        products = torch.zeros(3, SCAN_ELEMENTS, dtype=torch.float64)
        wide_a, wide_b = a.double(), b.double()  # (E,)
        products[0, : len(a)] = wide_a * wide_a
        products[1, : len(a)] = wide_b * wide_b
        products[2, : len(a)] = wide_a * wide_b
        block_aa, block_bb, block_ab = _sum_by_halves(products).tolist()
        aa, bb, ab = aa + block_aa, bb + block_bb, ab + block_ab
    norm_a, norm_b = math.sqrt(aa), math.sqrt(bb)
    if norm_a <= NO_DIRECTION or norm_b <= NO_DIRECTION:
        return math.nan
    return ab / (norm_a * norm_b)


def _sum_by_halves(values: Tensor) -> Tensor:
    """(N, 2^k) to (N,)."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]


def _combine(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    return linear(inputs, place.facts)


def _scan(scan: Scan, weights: Sequence[float], params: Params) -> tuple[float, float]:
    return arc_weights(cosine_of(scan), weights)


def _check(weights: Sequence[float], params: Params) -> None:
    if len(weights) != 2:
        raise RecipeError(f"slerp needs exactly two inputs, got {len(weights)}; no checkpoint was written")


SLERP = register(
    Method("slerp", _combine, reference="Shoemake 1985, doi:10.1145/325334.325242", check=_check, scan=_scan)
)
