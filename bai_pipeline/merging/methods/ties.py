"""TIES-merging: trim task vectors, elect a sign, average what agrees with it (Yadav et al. 2023, arXiv:2306.01708)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from bai_pipeline.merging.methods.params import density_param, flag_param, scale_param
from bai_pipeline.merging.methods.registry import Method, Params, Place, Scan, register
from bai_pipeline.merging.methods.task_vectors import add_task_vector, check_task_weights, task_vectors

if TYPE_CHECKING:
    from torch import Tensor

_LOW_BITS: Final = 16
_HIGH_BITS: Final = 31 - _LOW_BITS  # without the sign


def trim(tau: Tensor, threshold: float) -> Tensor:
    """Step 1 of TIES: τ̂ = τ where |τ| ≥ threshold, else 0; both (E,). All entries equal to the threshold stay."""
    return tau.where(tau.abs() >= threshold, 0.0)


def elect_and_merge(taus: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Steps 2 and 3 of TIES, sign election and disjoint mean, for every element; the paper's weights are equal.

        γ   = 1 if Σ w_i τ̂_i ≥ 0 else −1
        A   = {i : sgn(w_i τ̂_i) = γ}
        τ_m = Σ_{i ∈ A} w_i τ̂_i / Σ_{i ∈ A} w_i,   0 where A is empty

    Args:
        taus: τ̂_i, (E,) float32 each.
        weights: one per task vector.
        normalize: divide; without it τ_m is the sum.

    Returns:
        τ_m, (E,).
    """
    products = [tau * weight for tau, weight in zip(taus, weights, strict=True)]
    total = products[0]
    for product in products[1:]:
        total = total + product
    is_positive = total >= 0.0
    merged, share = total.new_zeros(total.shape), total.new_zeros(total.shape)
    for product, weight in zip(products, weights, strict=True):
        agrees = (product > 0.0).where(is_positive, product < 0.0)
        merged += product.where(agrees, 0.0)
        share += agrees.to(share.dtype) * weight
    return merged / share.where(share > 0.0, 1.0) if normalize else merged


def magnitude_thresholds(scan: Scan, densities: Sequence[float]) -> tuple[float, ...]:
    """For each task vector of a whole tensor the k-th largest |τ|, k = max(1, ⌊density · elements⌋).

    Exact, and in memory that does not grow with the tensor: read as whole numbers, the bits of non-negative float32
    are in the order of the floats. One pass counts their upper halves and so finds that of the k-th largest; another
    counts the lower halves of those that share it.

    Returns:
        One float32 per task vector; 0, which keeps everything, where the density is 1.
    """
    import torch

    if all(density == 1.0 for density in densities):
        return (0.0,) * len(densities)
    elements = 0
    high_counts = [torch.zeros(1 << _HIGH_BITS, dtype=torch.int64) for _ in densities]
    for inputs in scan():
        elements += len(inputs[0])
        for counts, bits in zip(high_counts, map(_magnitude_bits, task_vectors(inputs)), strict=True):
            counts += torch.bincount(bits >> _LOW_BITS, minlength=len(counts))
    if elements == 0:
        return (0.0,) * len(densities)
    ranks = [max(1, int(density * elements)) for density in densities]
    high = [_bin_of_rank(counts, rank) for counts, rank in zip(high_counts, ranks, strict=True)]

    low_counts = [torch.zeros(1 << _LOW_BITS, dtype=torch.int64) for _ in densities]
    for inputs in scan():
        all_bits = map(_magnitude_bits, task_vectors(inputs))
        for counts, bits, (high_bin, _) in zip(low_counts, all_bits, high, strict=True):
            same = bits[(bits >> _LOW_BITS) == high_bin]
            counts += torch.bincount(same & ((1 << _LOW_BITS) - 1), minlength=len(counts))
    low = [_bin_of_rank(counts, rank)[0] for counts, (_, rank) in zip(low_counts, high, strict=True)]
    return tuple(
        0.0 if density == 1.0 else _float_of_bits((high_bin << _LOW_BITS) | low_bin)
        for density, (high_bin, _), low_bin in zip(densities, high, low, strict=True)
    )


def _magnitude_bits(tau: Tensor) -> Tensor:
    """|τ| as the whole number that its bits spell, (E,)."""
    import torch

    return tau.abs().view(torch.int32)


def _bin_of_rank(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the `rank`-th largest value (from 1), and its rank inside that bin."""
    from_top = counts.flip(0).cumsum(0)
    above = int((from_top < rank).sum())
    return len(counts) - 1 - above, rank - (int(from_top[above - 1]) if above else 0)


def _float_of_bits(bits: int) -> float:
    return cast(float, struct.unpack("<f", struct.pack("<I", bits))[0])


def _combine(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    taus = [trim(tau, threshold) for tau, threshold in zip(task_vectors(inputs), place.facts, strict=True)]
    merged = elect_and_merge(taus, weights[1:], normalize=flag_param(place.params, "normalize", True))
    return add_task_vector(inputs[0], merged, scale_param(place.params))


def _scan(scan: Scan, weights: Sequence[float], params: Params) -> tuple[float, ...]:
    return magnitude_thresholds(scan, density_param(params, len(weights) - 1))


def _check(weights: Sequence[float], params: Params) -> None:
    check_task_weights(weights)
    density_param(params, len(weights) - 1)
    scale_param(params)
    flag_param(params, "normalize", True)


TIES = register(
    Method(
        "ties",
        _combine,
        reference="Yadav et al. 2023, arXiv:2306.01708",
        params=frozenset({"density", "scale", "normalize"}),
        check=_check,
        scan=_scan,
    )
)
