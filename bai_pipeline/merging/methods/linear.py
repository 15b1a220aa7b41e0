"""Linear combination of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bai_pipeline.merging.methods.registry import Method, Place, register

if TYPE_CHECKING:
    from torch import Tensor


def linear(inputs: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted sum in the order of the inputs.

        y = (…((w_1 x_1) + (w_2 x_2)) + …) + (w_n x_n)

    Every product is rounded to float32 before it is added: `add(alpha=)` and `addcmul` may fuse the two, and a fused
    sum differs from machine to machine. An input of weight 0 is left out: it could only turn -0 into +0.

    Args:
        inputs: float32, (E,) each, E elements.
        weights: one per input, not all 0.

    Returns:
        (E,), float32.
    """
    terms = ((x, w) for x, w in zip(inputs, weights, strict=True) if w != 0.0)
    x, w = next(terms)
    total = x * w
    for x, w in terms:
        total += x * w
    return total


def _combine(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    return linear(inputs, weights)


LINEAR = register(
    Method(
        "linear",
        _combine,
        reference="BAI, equations 1 and 2; Wortsman et al. 2022 (model soups), arXiv:2203.05482",
        linear=True,
    )
)
