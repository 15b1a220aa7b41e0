"""TIES: trim, elect a sign, average what agrees."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.methods import SCAN_ELEMENTS
from bai_pipeline.merging.methods.ties import elect_and_merge, magnitude_thresholds
from tests.merging.chunks import CHUNKS, eighths, merge, node, random_inputs, scan_of

Array = np.ndarray[Any, np.dtype[np.float64]]


def reference(
    inputs: Sequence[Array], weights: Sequence[float], densities: Sequence[float], scale: float, normalize: bool
) -> Array:
    """The three steps, element by element in float64."""
    base, *others = inputs
    taus = []
    for x, density in zip(others, densities, strict=True):
        tau = x - base
        kth = sorted(abs(tau), reverse=True)[int(density * len(tau)) - 1]
        taus.append([value if abs(value) >= kth else 0.0 for value in tau])
    out = []
    for base_e, *taus_e in zip(base, *taus, strict=True):
        weighted = [w * tau for w, tau in zip(weights, taus_e, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        agreeing = [i for i, value in enumerate(weighted) if np.sign(value) == sign]
        mean = sum(weighted[i] for i in agreeing)
        if normalize and agreeing:
            mean /= sum(weights[i] for i in agreeing)
        out.append(base_e + scale * mean)
    return np.array(out)


def test_a_case_worked_by_hand() -> None:
    base = torch.zeros(4)
    a = torch.tensor([4.0, -1.0, 2.0, 3.0])
    b = torch.tensor([-8.0, 6.0, 1.0, 1.0])
    # density ½ keeps the two largest: a → (4, 0, 0, 3), b → (−8, 6, 0, 0)
    # with weights ½: Σ = (−2, 3, 0, 1.5), elected − + + +; only b, b, none, a agree
    assert merge("ties", [base, a, b], [0, 0.5, 0.5], {"density": 0.5}).tolist() == [-8.0, 6.0, 0.0, 3.0]
    summed = merge("ties", [base, a, b], [0, 0.5, 0.5], {"density": 0.5, "normalize": False, "scale": 2.0})
    assert summed.tolist() == [-8.0, 6.0, 0.0, 3.0]  # half of each, doubled


def test_weights_decide_the_election_and_the_mean() -> None:
    base, a, b, c = (torch.tensor([x]) for x in (0.0, 1.0, 2.0, -4.0))
    # ½·1 + ¼·2 − ¼·4 = 0 counts as positive: a and b agree, (½·1 + ¼·2) / (½ + ¼) = 4/3
    merged = merge("ties", [base, a, b, c], [0, 0.5, 0.25, 0.25], {"density": 1.0})
    assert merged.item() == pytest.approx(4 / 3, rel=1e-7)
    # ¼·1 + ¼·2 − ½·4 < 0: c alone
    assert merge("ties", [base, a, b, c], [0, 0.25, 0.25, 0.5], {"density": 1.0}).item() == -4.0


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("densities", [[0.2, 0.2, 0.2], [1.0, 0.5, 0.01], [0.75, 1.0, 1.0]])
def test_it_is_the_three_steps(densities: list[float], normalize: bool) -> None:
    inputs = random_inputs(4, 3000)
    params = {"density": densities, "scale": 1.25, "normalize": normalize}
    # the steps begin with τ: rounded as any merge in float32 rounds it, or entries at the threshold could differ
    base = inputs[0].numpy()
    exact = [base.astype(np.float64), *(base.astype(np.float64) + (x.numpy() - base) for x in inputs[1:])]
    expected = reference(exact, [0.5, 0.3, 0.2], densities, 1.25, normalize)
    np.testing.assert_allclose(
        merge("ties", inputs, [0, 0.5, 0.3, 0.2], params).numpy(), expected, rtol=1e-5, atol=1e-6
    )


def test_it_is_the_three_steps_where_many_entries_are_equal() -> None:
    inputs = eighths(3, 2000)
    exact = [x.numpy().astype(np.float64) for x in inputs]
    params = {"density": 0.3, "normalize": False}
    expected = reference(exact, [0.25, 0.75], [0.3, 0.3], 1.0, False)
    assert np.array_equal(merge("ties", inputs, [0, 0.25, 0.75], params).numpy(), expected)


def test_one_model_with_all_its_entries_is_its_task_vector() -> None:
    inputs = random_inputs(2, 1000)
    merged = merge("ties", inputs, [0, 1], {"density": 1.0})
    assert torch.equal(merged, inputs[0] + (inputs[1] - inputs[0]))


def test_a_model_of_weight_zero_has_no_say() -> None:
    base, a, b = random_inputs(3, 1000)
    with_it = merge("ties", [base, a, b], [0, 1, 0], {"density": 0.5})
    assert torch.equal(with_it, merge("ties", [base, a], [0, 1], {"density": 0.5}))


def test_without_division_agreeing_parts_are_added() -> None:
    taus = [torch.tensor([1.0, -1.0]), torch.tensor([3.0, 2.0])]
    # Σ = (2, ½): both agree on the first; on the second b alone
    assert elect_and_merge(taus, [0.5, 0.5], normalize=False).tolist() == [2.0, 1.0]
    assert elect_and_merge(taus, [0.5, 0.5], normalize=True).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("elements", [1, 7, SCAN_ELEMENTS, SCAN_ELEMENTS + 1, 200_000])
@pytest.mark.parametrize("density", [1e-9, 0.001, 0.3, 0.5, 0.999999])
def test_the_threshold_is_the_kth_largest_magnitude(elements: int, density: float) -> None:
    inputs = random_inputs(3, elements)
    k = max(1, int(density * elements))
    expected = [float(np.sort(np.abs((x - inputs[0]).numpy()))[::-1][k - 1]) for x in inputs[1:]]
    assert list(magnitude_thresholds(scan_of(inputs), [density, density])) == expected


def test_the_threshold_is_exact_over_all_magnitudes_of_float32() -> None:
    generator = np.random.default_rng(0)
    tau = generator.integers(0, 0x7F80_0000, 10_000, dtype=np.uint32).view(np.float32)  # every finite bit pattern
    tau[::2] *= -1
    tau[:100] = 0.0
    inputs = [torch.zeros(10_000), torch.from_numpy(tau)]
    for k in (1, 2, 5_000, 9_900, 9_901, 10_000):
        density = (k + 0.5) / 10_000 if k < 10_000 else 0.99999
        expected = np.sort(np.abs(tau))[::-1][min(k, 9_999) - 1]
        assert magnitude_thresholds(scan_of(inputs), [density]) == (expected,)


def test_entries_equal_to_the_threshold_all_stay() -> None:
    base, a = torch.zeros(6), torch.tensor([1.0, -1.0, 1.0, 0.5, 2.0, -1.0])
    # k = ⌊0.34 · 6⌋ = 2: the second largest magnitude is 1, which four entries have
    assert merge("ties", [base, a], [0, 1], {"density": 0.34}).tolist() == [1.0, -1.0, 1.0, 0.0, 2.0, -1.0]


def test_at_least_one_entry_stays() -> None:
    base, a = torch.zeros(3), torch.tensor([1.0, -3.0, 2.0])
    assert merge("ties", [base, a], [0, 1], {"density": 0.1}).tolist() == [0.0, -3.0, 0.0]


def test_a_tensor_without_elements_has_no_threshold() -> None:
    assert magnitude_thresholds(scan_of([torch.empty(0)] * 3), [0.5, 0.5]) == (0.0, 0.0)


def test_keeping_everything_reads_nothing() -> None:
    def no_scan() -> Any:
        pytest.fail("the tensor was read")

    assert magnitude_thresholds(no_scan, [1.0, 1.0]) == (0.0, 0.0)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunks_change_no_bit(chunk: int) -> None:
    inputs = random_inputs(3, 70_001)
    params = {"density": [0.3, 0.6]}
    whole = merge("ties", inputs, [0, 0.3, 0.7], params, chunk=70_001)
    assert torch.equal(merge("ties", inputs, [0, 0.3, 0.7], params, chunk=chunk), whole)


DENSITY = "density: expected a number above 0 and at most 1, or 2 of them, one per input but the base, got "


@pytest.mark.parametrize(
    ("weights", "params", "message"),
    [
        ([0.2, 0.4, 0.4], {"density": 0.5}, "the first input of a method over task vectors is the base"),
        ([0, 0.5, 0.5], {}, DENSITY + "None; no checkpoint was written"),
        ([0, 0.5, 0.5], {"density": 0}, DENSITY + "0"),
        ([0, 0.5, 0.5], {"density": 1.1}, DENSITY + "1.1"),
        ([0, 0.5, 0.5], {"density": 1e-60}, DENSITY + "1e-60"),
        ([0, 0.5, 0.5], {"density": float("nan")}, DENSITY + "nan"),
        ([0, 0.5, 0.5], {"density": True}, DENSITY + "True"),
        ([0, 0.5, 0.5], {"density": "0.5"}, DENSITY + "'0.5'"),
        ([0, 0.5, 0.5], {"density": [0.5]}, DENSITY + "[0.5]"),
        ([0, 0.5, 0.5], {"density": [0.5, -0.5]}, DENSITY + "[0.5, -0.5]"),
        ([0, 0.5, 0.5], {"density": 0.5, "scale": 0}, "scale: expected a positive, finite number, got 0"),
        ([0, 0.5, 0.5], {"density": 0.5, "normalize": 1}, "normalize: expected true or false, got 1"),
        ([0, 0.5, 0.5], {"density": 0.5, "seed": 1}, "unknown params of ties: seed"),
    ],
)
def test_weights_and_params_that_it_cannot_use_are_refused(
    weights: list[float], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        node("ties", weights, params)
    assert str(caught.value).startswith(message)
