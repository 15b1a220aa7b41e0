"""Task arithmetic: the base plus a weighted sum of task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bai_pipeline.merging.methods.linear import linear
from bai_pipeline.merging.methods.params import scale_param
from bai_pipeline.merging.methods.registry import Method, Params, Place, register
from bai_pipeline.merging.methods.task_vectors import add_task_vector, check_task_weights, task_vectors

if TYPE_CHECKING:
    from torch import Tensor


def task_arithmetic(inputs: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """Addition of task vectors (Ilharco et al. 2023, arXiv:2212.04089).

        y = base + scale · Σ w_i τ_i,   τ_i = x_i − base

    Args:
        inputs: the base, then x_i, (E,) float32 each.
        weights: one per input; the first is not used.

    Returns:
        (E,), float32.
    """
    return add_task_vector(inputs[0], linear(task_vectors(inputs), weights[1:]), scale)


def _combine(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    return task_arithmetic(inputs, weights, scale_param(place.params))


def _check(weights: Sequence[float], params: Params) -> None:
    check_task_weights(weights)
    scale_param(params)


TASK_ARITHMETIC = register(
    Method(
        "task_arithmetic",
        _combine,
        reference="Ilharco et al. 2023, arXiv:2212.04089",
        params=frozenset({"scale"}),
        check=_check,
    )
)
