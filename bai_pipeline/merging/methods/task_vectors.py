"""Task vectors: what training added to the base (Ilharco et al. 2023, arXiv:2212.04089).

    τ_i = x_i − base

The first input of a method over task vectors is the base. Its weight is 0, the weights of the others sum to one.
Legend: E elements of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bai_pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


def task_vectors(inputs: Sequence[Tensor]) -> list[Tensor]:
    """τ_i of every input but the first, (E,) float32 each."""
    base, *others = inputs
    return [x - base for x in others]


def add_task_vector(base: Tensor, tau: Tensor, scale: float) -> Tensor:
    """base + scale · τ, all (E,) float32; the product is rounded before it is added."""
    return base + tau * scale


def check_task_weights(weights: Sequence[float]) -> None:
    """The first weight must be 0 and there must be another.

    Raises:
        RecipeError: otherwise.
    """
    if len(weights) < 2:
        raise RecipeError(
            f"a method over task vectors needs the base and at least one other input, got {len(weights)} in all; "
            "no checkpoint was written"
        )
    if weights[0] != 0.0:
        raise RecipeError(
            f"the first input of a method over task vectors is the base, expected weight 0, got {weights[0]!r}; "
            "no checkpoint was written"
        )
