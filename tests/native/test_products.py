"""torch's products by native code: models compute the same, and what native code is not for is torch's."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bai_pipeline.native import load_native, products
from bai_pipeline.native.library import Native
from bai_pipeline.native.products import replace_products, use_native_products


class Spy:
    """Native code that keeps count of its products."""

    def __init__(self, native: Native) -> None:
        self.calls, self._native = 0, native

    def product(self, a: Tensor, b: Tensor, out: Tensor) -> None:
        self.calls += 1
        self._native.product(a, b, out)


@pytest.fixture
def spy() -> Iterator[Spy]:
    """In the place of torch's kernels for one test."""
    native = load_native()
    assert native is not None, "native.cpp was not built"
    spy = Spy(native)
    library = replace_products(spy.product)
    yield spy
    library._destroy()  # type: ignore[no-untyped-call]


def random(*shape: int, seed: int = 0, trained: bool = False) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(trained)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-4, rtol=1e-5)


def test_a_linear_layer_goes_forward_and_backward_through_native_code(spy: Spy) -> None:
    x, weight, slope = random(200, 64, trained=True), random(96, 64, seed=1, trained=True), random(200, 96, seed=2)
    y = F.linear(x, weight)
    y.backward(slope)  # type: ignore[no-untyped-call]
    assert spy.calls == 3
    close(y.detach(), x.detach().double() @ weight.detach().double().T)
    assert x.grad is not None
    assert weight.grad is not None
    close(x.grad, slope.double() @ weight.detach().double())
    close(weight.grad, slope.double().T @ x.detach().double())


def test_grouped_experts_go_forward_and_backward_through_native_code(spy: Spy) -> None:
    x, weight, slope = random(600, 64, trained=True), random(3, 64, 48, seed=1, trained=True), random(600, 48, seed=2)
    ends = [250, 250, 600]  # nobody chose the second
    y = F.grouped_mm(x, weight, offs=torch.tensor(ends, dtype=torch.int32))
    y.backward(slope)  # type: ignore[no-untyped-call]
    assert spy.calls == 6
    assert x.grad is not None
    assert weight.grad is not None
    for expert, rows in ((0, slice(0, 250)), (2, slice(250, 600))):
        close(y[rows].detach(), x[rows].detach().double() @ weight[expert].detach().double())
        close(x.grad[rows], slope[rows].double() @ weight[expert].detach().double().T)
        close(weight.grad[expert], x[rows].detach().double().T @ slope[rows].double())
    assert not weight.grad[1].any()


def test_a_product_is_written_where_it_is_wanted(spy: Spy) -> None:
    a, b, out = random(100, 64), random(64, 100, seed=1), torch.full((100, 100), torch.nan)
    assert torch.mm(a, b, out=out) is out
    assert spy.calls == 1
    close(out, a.double() @ b.double())


def test_what_native_code_is_not_for_is_torchs(spy: Spy) -> None:
    a, b = random(100, 64), random(64, 100, seed=1)
    expected = a.double() @ b.double()
    torch.testing.assert_close((a.bfloat16() @ b.bfloat16()).double(), expected, atol=0.2, rtol=0)
    close(a[:2, :3] @ b[:3, :2], (a[:2, :3].double() @ b[:3, :2].double()))
    close(random(8, 3000) @ random(3000, 64), random(8, 3000).double() @ random(3000, 64).double())
    close(random(3000, 200) @ random(200, 1), random(3000, 200).double() @ random(200, 1).double())
    out = torch.empty(100, 100).T
    close(torch.mm(a, b, out=out), expected)
    empty = torch.empty(0)
    close(torch.mm(a, b, out=empty), expected)
    assert spy.calls == 0
    for wrong in (b.T, torch.zeros(63, 100)):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            torch.mm(a, wrong)
    with pytest.raises(RuntimeError, match="must be a matrix"):
        torch.mm(a, b[0])


def test_a_view_that_is_negated_when_it_is_read_is_multiplied_as_it_reads(spy: Spy) -> None:
    numbers, b = random(100, 64, 2), random(64, 100, seed=1)
    negative = torch.view_as_complex(numbers).conj().imag
    assert negative.is_neg()
    close(negative @ b, -numbers[..., 1].double() @ b.double())
    assert spy.calls == 1


def test_several_threads_are_torchs(spy: Spy) -> None:
    a, b = random(100, 64), random(64, 100, seed=1)
    torch.set_num_threads(2)
    try:
        close(a @ b, a.double() @ b.double())
        assert spy.calls == 0
    finally:
        torch.set_num_threads(1)
    close(a @ b, a.double() @ b.double())
    assert spy.calls == 1


def test_kernels_last_as_long_as_what_replaced_them() -> None:
    native = load_native()
    assert native is not None
    spy = Spy(native)
    library = replace_products(spy.product)
    library._destroy()  # type: ignore[no-untyped-call]
    a = random(100, 100)
    close(a @ a, a.double() @ a.double())
    assert spy.calls == 0


CPUS = {
    "AMD with AVX-512": ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
    "AMD without": ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
    "Intel with AVX-512": ({"cpu_name": "Intel(R) Xeon(R) Platinum 8480+", "avx512_f": True}, False),
    "ARM": ({"cpu_name": "Neoverse-V2"}, False),
    "one without a name": ({}, False),
}


@pytest.mark.parametrize("name", CPUS)
def test_products_are_replaced_where_mkl_is_held_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, expected = CPUS[name]
    replace = Mock(return_value="kernels")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "replace_products", replace)
    found = use_native_products.__wrapped__()
    assert (found, replace.call_count) == (("kernels", 1) if expected else (None, 0))


def test_products_are_torchs_where_native_code_was_not_built_or_mkl_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPUS["AMD with AVX-512"][0])
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert use_native_products.__wrapped__() is None
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "load_native", lambda: None)
    assert use_native_products.__wrapped__() is None
