"""Slerp: on the great circle through two tensors."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.methods.slerp import arc_weights, cosine_of
from tests.merging.chunks import CHUNKS, merge, node, scan_of


def slerp(a: Tensor, b: Tensor, t: float, *, chunk: int = 65_536) -> Tensor:
    return merge("slerp", [a, b], [1 - t, t], chunk=chunk)


def test_half_way_between_perpendicular_unit_vectors() -> None:
    # Ω = 90°, so both weights are sin 45° / sin 90° = √½, where a straight line would have ½
    y = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert y.tolist() == [float(np.float32(math.sqrt(0.5)))] * 2


def test_a_third_of_the_way_from_one_length_to_another() -> None:
    # Ω = 90°: sin 60° · (2, 0) + sin 30° · (0, 4) = (√3, 2)
    y = slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]), 1 / 3)
    np.testing.assert_allclose(y.numpy(), [math.sqrt(3), 2.0], rtol=2e-7)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_it_is_the_equation(t: float) -> None:
    a, b = random_pair()
    x, y = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    angle = np.arccos(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
    expected = (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)
    np.testing.assert_allclose(slerp(a, b, t).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_path_keeps_the_length_and_divides_the_angle() -> None:
    a, b = (x / x.norm() for x in random_pair())
    y = slerp(a, b, 0.25).double()
    angle = torch.acos(a.double() @ b.double())
    assert y.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.acos(y @ a.double()).item() == pytest.approx(angle.item() / 4, abs=1e-4)


def test_the_ends_are_the_models() -> None:
    a, b = random_pair()
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)


@pytest.mark.parametrize("cosine", [0.9996, -0.9996, 1.0, -1.0, math.nan])
def test_nearly_parallel_tensors_are_interpolated_along_a_line(cosine: float) -> None:
    assert arc_weights(cosine, (0.75, 0.25)) == (0.75, 0.25)


@pytest.mark.parametrize("cosine", [0.9994, -0.9994, 0.0])
def test_others_along_an_arc(cosine: float) -> None:
    angle = math.acos(cosine)
    expected = [math.sin(0.75 * angle) / math.sin(angle), math.sin(0.25 * angle) / math.sin(angle)]
    assert arc_weights(cosine, (0.75, 0.25)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("a", [torch.zeros(5), torch.full((5,), 1e-9)])
def test_a_tensor_without_a_direction_is_interpolated_along_a_line(a: Tensor) -> None:
    b = torch.tensor([1.0, -2.0, 4.0, 0.0, 8.0])
    assert torch.equal(slerp(a, b, 0.25), a * 0.75 + b * 0.25)
    assert torch.equal(slerp(b, a, 0.25), b * 0.75 + a * 0.25)


def test_the_angle_is_that_of_the_whole_tensors() -> None:
    n = 200_000
    a, b = torch.ones(n), torch.tensor([4.0, 0.0]).repeat(n // 2)
    # a·b = 4 n/2 = 2n, ‖a‖² = n, ‖b‖² = 16 n/2 = 8n
    assert cosine_of(scan_of([a, b])) == pytest.approx(2 / math.sqrt(8), rel=1e-15)


def test_sums_have_the_precision_of_float64() -> None:
    a, b = random_pair(300_000)
    exact = [math.fsum((x.double() * y.double()).tolist()) for x, y in ((a, b), (a, a), (b, b))]
    assert cosine_of(scan_of([a, b])) == pytest.approx(exact[0] / math.sqrt(exact[1] * exact[2]), rel=1e-13)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_chunks_change_no_bit(chunk: int) -> None:
    a, b = random_pair(70_001)
    assert torch.equal(slerp(a, b, 0.3, chunk=chunk), slerp(a, b, 0.3, chunk=70_001))


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.25, 0.25]])
def test_any_number_of_inputs_but_two_is_refused(weights: list[float]) -> None:
    with pytest.raises(RecipeError, match=rf"^slerp needs exactly two inputs, got {len(weights)}; no checkpoint was"):
        node("slerp", weights)


def test_params_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"^unknown params of slerp: t; it takes none"):
        node("slerp", [0.5, 0.5], {"t": 0.5})


def random_pair(elements: int = 1000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(elements, generator=generator), 0.5 + torch.randn(elements, generator=generator)
