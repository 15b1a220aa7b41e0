"""Task arithmetic: base + scale · Σ w_i τ_i."""

from typing import Any

import numpy as np
import pytest
import torch

from bai_pipeline.errors import RecipeError
from tests.merging.chunks import CHUNKS, eighths, merge, node, random_inputs


def test_a_case_worked_by_hand() -> None:
    base, a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([1.0, -2.0])
    # τ_a = (2, 0), τ_b = (0, −4); ½ τ_a + ½ τ_b = (1, −2); twice that is (2, −4)
    assert merge("task_arithmetic", [base, a, b], [0, 0.5, 0.5], {"scale": 2.0}).tolist() == [3.0, -2.0]


def test_it_is_the_equation() -> None:
    inputs = eighths(4, 1000)
    base, *others = (x.numpy().astype(np.float64) for x in inputs)
    expected = base + 1.5 * sum(w * (x - base) for w, x in zip([0.25, 0.5, 0.25], others, strict=True))
    merged = merge("task_arithmetic", inputs, [0, 0.25, 0.5, 0.25], {"scale": 1.5})
    assert np.array_equal(merged.numpy(), expected)


def test_every_product_and_every_sum_is_rounded_to_float32() -> None:
    """Bit for bit numpy's single operations: a fused multiply-add would differ in some elements."""
    inputs = random_inputs(3, 20_000)
    base, a, b = (x.numpy() for x in inputs)
    u, v, scale = np.float32(0.3), np.float32(0.7), np.float32(1.1)
    expected = base + ((a - base) * u + (b - base) * v) * scale
    assert np.array_equal(merge("task_arithmetic", inputs, [0, 0.3, 0.7], {"scale": 1.1}).numpy(), expected)


def test_a_scale_of_one_is_the_weighted_mean_of_the_models() -> None:
    inputs = random_inputs(3, 1000)
    mean = merge("linear", inputs[1:], [0.3, 0.7])
    torch.testing.assert_close(merge("task_arithmetic", inputs, [0, 0.3, 0.7]), mean)


def test_models_that_are_the_base_change_nothing() -> None:
    (base,) = random_inputs(1, 1000)
    assert torch.equal(merge("task_arithmetic", [base, base, base], [0, 0.3, 0.7], {"scale": 3.0}), base)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunks_change_no_bit(chunk: int) -> None:
    inputs = random_inputs(3, 5000)
    whole = merge("task_arithmetic", inputs, [0, 0.3, 0.7], {"scale": 0.7}, chunk=5000)
    assert torch.equal(merge("task_arithmetic", inputs, [0, 0.3, 0.7], {"scale": 0.7}, chunk=chunk), whole)


@pytest.mark.parametrize(
    ("weights", "params", "message"),
    [
        ([1.0], {}, "a method over task vectors needs the base and at least one other input, got 1 in all"),
        (
            [0.5, 0.5],
            {},
            "the first input of a method over task vectors is the base, expected weight 0, got 0.5; no checkpoint was",
        ),
        ([0, 1], {"scale": 0}, "scale: expected a positive, finite number, got 0; no checkpoint was written"),
        ([0, 1], {"scale": -1.0}, "scale: expected a positive, finite number, got -1.0"),
        ([0, 1], {"scale": 1e39}, "scale: expected a positive, finite number, got 1e+39"),
        ([0, 1], {"scale": 1e-60}, "scale: expected a positive, finite number, got 1e-60"),
        ([0, 1], {"scale": float("nan")}, "scale: expected a positive, finite number, got nan"),
        ([0, 1], {"scale": True}, "scale: expected a positive, finite number, got True"),
        ([0, 1], {"scale": "1"}, "scale: expected a positive, finite number, got '1'"),
        ([0, 1], {"lambda": 1}, "unknown params of task_arithmetic: lambda; it takes scale"),
        ([0, 0.5], {}, "merge weights must be non-negative and sum to 1"),
        ([0, 1.5, -0.5], {}, "merge weights must be non-negative and sum to 1"),
    ],
)
def test_weights_and_params_that_it_cannot_use_are_refused(
    weights: list[float], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        node("task_arithmetic", weights, params)
    assert str(caught.value).startswith(message)
