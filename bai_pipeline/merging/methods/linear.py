"""Linear combination of weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bai_pipeline.merging.methods.registry import Method, Place, register

if TYPE_CHECKING:
    from torch import Tensor


def linear(inputs: Sequence[Tensor], weights: Sequence[float], disposable: Collection[int] = ()) -> Tensor:
    """Weighted sum in the order of the inputs.

        y = (…((w_1 x_1) + (w_2 x_2)) + …) + (w_n x_n)

    Every product is rounded to float32 before it is added: `add(alpha=)` and `addcmul` may fuse the two, and a fused
    sum differs from machine to machine. An input of weight 0 is left out: it could only turn -0 into +0.

    Args:
        inputs: float32, (E,) each, E elements.
        weights: one per input, not all 0.
        disposable: the inputs that may be overwritten: without memory for products a merge takes a fifth less time.

    Returns:
        (E,), float32.
    """
    products = (
        x.mul_(w) if number in disposable else x * w
        for number, (x, w) in enumerate(zip(inputs, weights, strict=True))
        if w != 0.0
    )
    total = next(products)
    for product in products:
        total += product
    return total


def _combine(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    return linear(inputs, weights, place.disposable)


LINEAR = register(
    Method(
        "linear",
        _combine,
        reference="BAI, equations 1 and 2; Wortsman et al. 2022 (model soups), arXiv:2203.05482",
        linear=True,
    )
)
