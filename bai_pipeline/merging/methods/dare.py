"""DARE: drop entries of task vectors at random and rescale the rest (Yu et al. 2024, arXiv:2311.03099).

Two methods: `dare_linear` adds the task vectors up, `dare_ties` elects a sign and averages what agrees with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from bai_pipeline.merging.methods.linear import linear
from bai_pipeline.merging.methods.params import density_param, flag_param, float32, scale_param, seed_param
from bai_pipeline.merging.methods.registry import Method, Params, Place, register
from bai_pipeline.merging.methods.task_vectors import add_task_vector, check_task_weights, task_vectors
from bai_pipeline.merging.methods.ties import elect_and_merge

if TYPE_CHECKING:
    from torch import Tensor


def mask_key(seed: int, tensor: str, inputs: Sequence[str], number: int) -> int:
    """128 bits that differ between seeds, tensors and inputs: BLAKE2b of their names as JSON.

    Args:
        inputs: their names; inputs of one name are told apart by their order.
        number: which of them.
    """
    identity = json.dumps([seed, tensor, inputs[number], list(inputs[:number]).count(inputs[number])])
    return int.from_bytes(blake2b(identity.encode(), digest_size=16).digest(), "little")


def keep_mask(key: int, start: int, count: int, density: float) -> Tensor:
    """Which entries of a task vector stay: each with probability `density`, whatever chunk it is in.

        m_e = u_e < ⌊density · 2⁶⁴⌋

    u_e is word e mod 4 of block ⌊e / 4⌋ + 1 of Philox4x64-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405): a
    function of key and position, so that neither chunks nor threads nor machines change it.

    Args:
        start: flat position e of the first entry.

    Returns:
        (count,), bool.
    """
    import torch
    from numpy import uint64
    from numpy.random import Philox

    if density == 1.0:
        return torch.ones(count, dtype=torch.bool)
    block, word = divmod(start, 4)
    numbers = Philox(key=key, counter=block).random_raw(word + count)[word:]  # the first block is that after `counter`
    return torch.from_numpy(numbers < uint64(int(density * 2.0**64)))


def drop(tau: Tensor, mask: Tensor, density: float, *, rescale: bool) -> Tensor:
    """τ̂ = m τ / density, which is τ on average; without `rescale` m τ. All (E,)."""
    kept = tau.where(mask, 0.0)
    return kept / float32(density) if rescale else kept


def _dropped(inputs: Sequence[Tensor], place: Place) -> list[Tensor]:
    """τ̂_i of every input but the base, (E,) each."""
    densities = density_param(place.params, len(inputs) - 1)
    seed, rescale = seed_param(place.params), flag_param(place.params, "rescale", True)
    taus = []
    for number, (tau, density) in enumerate(zip(task_vectors(inputs), densities, strict=True), start=1):
        key = mask_key(seed, place.tensor, place.inputs, number)
        taus.append(drop(tau, keep_mask(key, place.start, len(tau), density), density, rescale=rescale))
    return taus


def _combine_linear(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    """y = base + scale · Σ w_i τ̂_i."""
    return add_task_vector(inputs[0], linear(_dropped(inputs, place), weights[1:]), scale_param(place.params))


def _combine_ties(inputs: Sequence[Tensor], weights: Sequence[float], place: Place) -> Tensor:
    """y = base + scale · τ_m, with τ_m of TIES from the τ̂_i."""
    normalize = flag_param(place.params, "normalize", True)
    merged = elect_and_merge(_dropped(inputs, place), weights[1:], normalize=normalize)
    return add_task_vector(inputs[0], merged, scale_param(place.params))


def _check(weights: Sequence[float], params: Params) -> None:
    check_task_weights(weights)
    density_param(params, len(weights) - 1)
    scale_param(params)
    seed_param(params)
    flag_param(params, "rescale", True)
    flag_param(params, "normalize", True)


_PARAMS = frozenset({"density", "scale", "seed", "rescale"})
_REFERENCE = "Yu et al. 2024, arXiv:2311.03099"

DARE_LINEAR = register(Method("dare_linear", _combine_linear, reference=_REFERENCE, params=_PARAMS, check=_check))
DARE_TIES = register(
    Method("dare_ties", _combine_ties, reference=_REFERENCE, params=_PARAMS | {"normalize"}, check=_check)
)
