"""DARE: entries dropped at random, by masks that depend on seed, tensor, input and position alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.methods.dare import keep_mask, mask_key
from tests.merging.chunks import CHUNKS, merge, node, random_inputs

BOTH = ["dare_linear", "dare_ties"]


def philox(key: int, position: int) -> int:
    """Number `position` of Philox4x64-10, as Salmon et al. (2011) define it."""
    word64 = (1 << 64) - 1
    k0, k1 = key & word64, key >> 64
    c = [position // 4 + 1, 0, 0, 0]
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(p1 >> 64) ^ c[1] ^ k0, p1 & word64, (p0 >> 64) ^ c[3] ^ k1, p0 & word64]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word64, (k1 + 0xBB67AE8584CAA73B) & word64
    return c[position % 4]


@pytest.mark.parametrize("start", [0, 4, 65_536, 3])
def test_the_mask_is_philox_at_the_position(start: int) -> None:
    key = mask_key(7, "lm_head.weight", ("base", "instruct"), 1)
    expected = [philox(key, start + i) < 0.25 * 2**64 for i in range(40)]
    assert keep_mask(key, start, 40, 0.25).tolist() == expected
    assert 0 < sum(expected) < 40


def test_a_key_is_that_of_seed_tensor_input_and_order() -> None:
    inputs = ("base", "a", "b", "a")
    keys = {mask_key(seed, name, inputs, i) for seed in (0, 1) for name in ("x", "y") for i in (1, 2, 3)}
    assert len(keys) == 12
    assert mask_key(0, "x", ("base", "a"), 1) == mask_key(0, "x", ("base", "b", "a"), 2)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_the_share_of_entries_that_stay_is_the_density(density: float) -> None:
    n = 200_000
    mask = keep_mask(mask_key(0, "w", ("base", "a"), 1), 0, n, density)
    deviation = math.sqrt(density * (1 - density) / n)
    assert abs(mask.double().mean().item() - density) < 4 * deviation


def test_masks_of_two_inputs_are_independent() -> None:
    n = 200_000
    a, b = (keep_mask(mask_key(0, "w", ("base", "a", "b"), i), 0, n, 0.5) for i in (1, 2))
    assert abs((a & b).double().mean().item() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)


@pytest.mark.parametrize("method", BOTH)
def test_an_entry_is_the_base_or_base_plus_task_vector_over_density(method: str) -> None:
    base, a = torch.zeros(1000), torch.arange(1.0, 1001.0)
    merged = merge(method, [base, a], [0, 1], {"density": 0.25, "seed": 3, "scale": 0.5})
    kept = merged != 0
    assert torch.equal(merged[kept], a[kept] * 4 / 2)
    assert 200 < int(kept.sum()) < 300


def test_without_rescaling_entries_stay_as_they_are() -> None:
    base, a = torch.zeros(1000), torch.arange(1.0, 1001.0)
    merged = merge("dare_linear", [base, a], [0, 1], {"density": 0.25, "seed": 3, "rescale": False})
    assert torch.equal(merged[merged != 0], a[merged != 0])


def test_rescaled_task_vectors_are_right_on_average() -> None:
    """Over seeds the mean of τ̂ is τ; its standard error is τ √((1 − p) / p / n)."""
    base, a = torch.zeros(16), torch.arange(1.0, 17.0)
    outputs = [merge("dare_linear", [base, a], [0, 1], {"density": 0.5, "seed": seed}) for seed in range(2000)]
    deviation = (torch.stack(outputs).mean(0) - a) / a / math.sqrt(1 / 2000)
    assert deviation.abs().max().item() < 4


def test_the_linear_variant_adds_what_stays() -> None:
    base, a, b = torch.zeros(4000), torch.full((4000,), 8.0), torch.full((4000,), -16.0)
    merged = merge("dare_linear", [base, a, b], [0, 0.75, 0.25], {"density": [0.5, 0.25], "seed": 0})
    # ¾ · 8 / ½ = 12 with probability ½, ¼ · −16 / ¼ = −16 with probability ¼
    counts = {value: int((merged == value).sum()) for value in (0.0, 12.0, -16.0, -4.0)}
    assert sum(counts.values()) == 4000
    for value, probability in ((0.0, 3 / 8), (12.0, 3 / 8), (-16.0, 1 / 8), (-4.0, 1 / 8)):
        assert abs(counts[value] - 4000 * probability) < 4 * math.sqrt(4000 * probability * (1 - probability))


def test_the_ties_variant_elects_a_sign_among_what_stays() -> None:
    base, a, b = torch.zeros(4000), torch.full((4000,), 8.0), torch.full((4000,), -16.0)
    params = {"density": 0.5, "seed": 0}
    # both stay: ½ · 16 − ½ · 32 < 0, so b alone, −32; else whichever stays; weights of what agrees divide out
    assert values(merge("dare_ties", [base, a, b], [0, 0.5, 0.5], params)) == {0.0, 16.0, -32.0}
    summed = merge("dare_ties", [base, a, b], [0, 0.5, 0.5], params | {"normalize": False})
    assert values(summed) == {0.0, 8.0, -16.0}


@pytest.mark.parametrize("method", BOTH)
def test_at_density_one_nothing_is_drawn(method: str) -> None:
    inputs = random_inputs(3, 1000)
    without = {"dare_linear": ("task_arithmetic", {}), "dare_ties": ("ties", {"density": 1.0})}[method]
    merged = merge(method, inputs, [0, 0.3, 0.7], {"density": 1.0, "seed": 0})
    assert torch.equal(merged, merge(without[0], inputs, [0, 0.3, 0.7], without[1]))


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunks_change_no_bit(method: str, chunk: int) -> None:
    inputs = random_inputs(3, 9001)
    params = {"density": [0.3, 0.6], "seed": 11}
    whole = merge(method, inputs, [0, 0.3, 0.7], params, chunk=9001)
    assert torch.equal(merge(method, inputs, [0, 0.3, 0.7], params, chunk=chunk), whole)


@pytest.mark.parametrize("method", BOTH)
def test_seed_tensor_and_input_change_the_mask_and_nothing_else_does(method: str) -> None:
    inputs, params = random_inputs(2, 1000), {"density": 0.5, "seed": 1}
    first = merge(method, inputs, [0, 1], params)
    assert torch.equal(first, merge(method, inputs, [0, 1], params))
    assert not torch.equal(first, merge(method, inputs, [0, 1], params | {"seed": 2}))
    assert not torch.equal(first, merge(method, inputs, [0, 1], params, tensor="lm_head.weight"))
    assert not torch.equal(first, merge(method, inputs, [0, 1], params, names=("base", "code")))
    assert torch.equal(first, merge(method, inputs, [0, 1], params, names=("pretrained", "instruct")))


def test_drawing_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    merge("dare_linear", random_inputs(2, 100), [0, 1], {"density": 0.5, "seed": 0})
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize(
    ("weights", "params", "message"),
    [
        ([1.0], {"density": 0.5, "seed": 0}, "a method over task vectors needs the base and at least one other input"),
        ([0.5, 0.5], {"density": 0.5, "seed": 0}, "the first input of a method over task vectors is the base"),
        ([0, 1], {"seed": 0}, "density: expected a number above 0 and at most 1"),
        ([0, 1], {"density": 0.5}, "seed: expected a whole number from 0 on, got None; no checkpoint was written"),
        ([0, 1], {"density": 0.5, "seed": -1}, "seed: expected a whole number from 0 on, got -1"),
        ([0, 1], {"density": 0.5, "seed": 1.0}, "seed: expected a whole number from 0 on, got 1.0"),
        ([0, 1], {"density": 0.5, "seed": True}, "seed: expected a whole number from 0 on, got True"),
        ([0, 1], {"density": 0.5, "seed": 0, "scale": -2}, "scale: expected a positive, finite number, got -2"),
        ([0, 1], {"density": 0.5, "seed": 0, "rescale": "no"}, "rescale: expected true or false, got 'no'"),
    ],
)
def test_weights_and_params_that_it_cannot_use_are_refused(
    method: str, weights: list[float], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        node(method, weights, params)
    assert str(caught.value).startswith(message)


def test_only_the_ties_variant_takes_normalize() -> None:
    params = {"density": 0.5, "seed": 0, "normalize": False}
    node("dare_ties", [0, 1], params)
    with pytest.raises(RecipeError, match="unknown params of dare_linear: normalize; it takes density, rescale, scale"):
        node("dare_linear", [0, 1], params)


def values(tensor: Tensor) -> set[float]:
    return {float(value) for value in np.unique(tensor.numpy())}
