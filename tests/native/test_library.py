"""Native code against the definitions, in float64."""

import math

import pytest
import torch
from torch import Tensor

from bai_pipeline.native.library import Native, load_native

EPSILON = 1e-5


@pytest.fixture
def native() -> Native:
    found = load_native()
    assert found is not None, "native.cpp was not built"
    return found


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("width", [1, 5, 16, 128, 200])
def test_a_norm_divides_by_the_root_mean_square(native: Native, width: int) -> None:
    x, weight = random(3, width), random(width, seed=1)
    close(native.norm(x, weight, EPSILON), normed(x.double(), weight.double()))


# -- products ----------------------------------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (3, 2, 5), (12, 256, 32), (13, 257, 33), (485, 20, 70), (64, 600, 96), (5, 0, 3), (0, 4, 4)]
"""Rows, depth, columns: around the sizes that are computed at a time, and nothing to add up, or to compute."""


def laid(matrix: Tensor, layout: str) -> Tensor:
    """The same elements elsewhere in memory."""
    if layout == "by columns":
        return matrix.T.contiguous().T
    if layout == "scattered":
        return matrix.new_full((2 * matrix.shape[0], 3 * matrix.shape[1]), torch.nan)[::2, ::3].copy_(matrix)
    return matrix


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
@pytest.mark.parametrize("left", ["by rows", "by columns", "scattered"])
@pytest.mark.parametrize("right", ["by rows", "by columns", "scattered"])
def test_a_product_is_that_of_its_matrices_however_they_lie(
    native: Native, rows: int, depth: int, columns: int, left: str, right: str
) -> None:
    a, b, out = random(rows, depth), random(depth, columns, seed=1), torch.full((rows, columns), torch.nan)
    native.product(laid(a, left), laid(b, right), out)
    torch.testing.assert_close(out.double(), a.double() @ b.double(), atol=1e-4, rtol=1e-5)


def test_a_column_that_is_repeated_without_memory_is_multiplied(native: Native) -> None:
    a, b, out = random(4, 1).expand(4, 9), random(9, 6, seed=1), torch.empty(4, 6)
    native.product(a, b, out)
    close(out, a.double() @ b.double())


@pytest.mark.parametrize("rows", [[0], [7], [11, 12, 500], list(range(485))])
@pytest.mark.parametrize("columns", [[0], [31, 32], [69]])
def test_an_element_of_a_product_is_the_same_to_the_bit_whatever_is_beside_it(
    native: Native, rows: list[int], columns: list[int]
) -> None:
    a, b = random(501, 300), random(300, 70, seed=1)
    whole, part = torch.empty(501, 70), torch.empty(len(rows), len(columns))
    native.product(a, b, whole)
    native.product(a[rows], b[:, columns], part)
    assert torch.equal(part, whole[rows][:, columns])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_reaches_its_row_and_its_column_only(native: Native, value: float) -> None:
    a, b, out = random(20, 40), random(40, 50, seed=1), torch.empty(20, 50)
    a[3, 7] = b[9, 41] = value
    native.product(a, b, out)
    hit = torch.zeros(20, 50, dtype=torch.bool)
    hit[3], hit[:, 41] = True, True
    assert torch.equal(~out.isfinite(), hit)


def test_matrices_that_do_not_fit_each_other_are_an_error(native: Native) -> None:
    for a, b, out in (((2, 3), (4, 5), (2, 5)), ((2, 3), (3, 5), (5, 2))):
        with pytest.raises(ValueError, match=r"\(2, 3\) times"):
            native.product(torch.zeros(a), torch.zeros(b), torch.zeros(out))
    with pytest.raises(TypeError, match=r"expected a torch\.float32 tensor on the CPU, got torch\.float64"):
        native.product(torch.zeros(2, 3).double(), torch.zeros(3, 2), torch.zeros(2, 2))
    with pytest.raises(TypeError, match="expected a contiguous"):
        native.product(torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 2).T)


# -- experts -----------------------------------------------------------------------------------------------------------


def experts_by_definition(hidden: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    out = torch.zeros_like(hidden, dtype=torch.float64)
    for row, (experts, shares) in enumerate(zip(chosen.tolist(), weights.double(), strict=True)):
        for expert, share in zip(experts, shares, strict=True):
            gate, up = (hidden[row].double() @ gate_up[expert].double()).chunk(2)
            out[row] += share * ((gate / (1 + (-gate).exp()) * up) @ down[expert].double())
    return out


@pytest.mark.parametrize(
    ("rows", "width", "inner", "experts", "each"),
    [(1, 16, 16, 2, 1), (13, 32, 48, 3, 2), (40, 33, 7, 5, 5), (64, 64, 32, 8, 2), (7, 1, 1, 4, 3)],
)
def test_experts_are_those_that_the_router_chose(
    native: Native, rows: int, width: int, inner: int, experts: int, each: int
) -> None:
    hidden, weights = random(rows, width), random(rows, each, seed=1).softmax(-1)
    chosen = random(rows, experts, seed=2).topk(each, -1).indices
    gate_up, down = random(experts, width, 2 * inner, seed=3) / 4, random(experts, inner, width, seed=4) / 4
    found = native.experts(hidden, chosen, weights, gate_up, down)
    close(found, experts_by_definition(hidden, chosen, weights, gate_up, down))


def test_a_row_that_chooses_an_expert_twice_gets_it_twice(native: Native) -> None:
    hidden, weights = random(5, 8), random(5, 3, seed=1)
    gate_up, down = random(2, 8, 12, seed=3), random(2, 6, 8, seed=4)
    chosen = torch.ones(5, 3, dtype=torch.int64)
    found = native.experts(hidden, chosen, weights, gate_up, down)
    torch.testing.assert_close(
        found.double(), experts_by_definition(hidden, chosen, weights, gate_up, down), atol=1e-4, rtol=1e-5
    )


def test_gates_far_from_zero_are_open_or_closed(native: Native) -> None:
    gates = torch.tensor([-1e30, -500.0, -88.0, 88.0, 500.0, 1e30])
    gate_up = torch.cat((gates, torch.ones(6))).view(1, 1, 12)  # of the hidden state 1
    found = [
        native.experts(torch.ones(1, 1), torch.tensor([[0]]), torch.ones(1, 1), gate_up, one.view(1, 6, 1)).item()
        for one in torch.eye(6)
    ]
    assert found[:3] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found[3:] == pytest.approx(gates[3:].tolist())


@pytest.mark.parametrize("chosen", [[[0, 3]], [[-1, 0]]])
def test_an_expert_that_does_not_exist_is_an_error(native: Native, chosen: list[list[int]]) -> None:
    with pytest.raises(IndexError, match=r"expert (3|-1) was chosen of 3"):
        native.experts(random(1, 4), torch.tensor(chosen), random(1, 2), random(3, 4, 8), random(3, 4, 4))


# -- attention ---------------------------------------------------------------------------------------------------------

WIDTH, CAPACITY = 8, 12


def rotations() -> Tensor:
    """(capacity, 2, D): cosines and sines of position · 100^(-2i/D), the halves turning against each other."""
    angles = torch.arange(CAPACITY)[:, None] * 100.0 ** (-torch.arange(WIDTH // 2) * 2 / WIDTH)
    cosines, sines = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cosines, cosines), 1), torch.cat((-sines, sines), 1)), 1).float()


def turned(heads: Tensor, position: int) -> Tensor:
    """Each pair (i, i + D/2) of `heads` (…, D) turned by its angle, as a complex number."""
    first, second = heads.double().chunk(2, -1)
    angles = position * 100.0 ** (-torch.arange(WIDTH // 2, dtype=torch.float64) * 2 / WIDTH)
    both = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((both.real, both.imag), -1)


class Row:
    """One row's tokens, read one after the other by the definition."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def read(self, projected: Tensor, heads: int, kv_heads: int, norms: tuple[Tensor, Tensor], limit: float) -> Tensor:
        query, key, value = torch.split(projected.double(), [heads * WIDTH, kv_heads * WIDTH, kv_heads * WIDTH])
        query, key = (normed(one, weight.double()) for one, weight in zip((query, key), norms, strict=True))
        query, key, value = (one.clamp(-limit, limit).view(-1, WIDTH) for one in (query, key, value))
        position = len(self.keys)
        self.keys.append(turned(key, position))
        self.values.append(value)
        keys, values = torch.stack(self.keys, 1), torch.stack(self.values, 1)  # (H_kv, S, D)
        group = torch.arange(heads) // (heads // kv_heads)
        scores = torch.einsum("hd,hsd->hs", turned(query, position), keys[group]) / math.sqrt(WIDTH)
        return torch.einsum("hs,hsd->hd", scores.softmax(-1), values[group]).flatten()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_token_sees_those_of_its_own_row_and_no_column_before_them(
    native: Native, heads: int, kv_heads: int, limit: float | None
) -> None:
    """Rows that are 0, 2 and 5 tokens long already, their last ones in the same column."""
    norms = random(heads * WIDTH, seed=5), random(kv_heads * WIDTH, seed=6)
    cache = torch.full((2, 3, kv_heads, CAPACITY, WIDTH), torch.nan)
    keys, values = cache.unbind()
    rows, before, bound = [Row(), Row(), Row()], [0, 2, 5], math.inf if limit is None else limit
    for row, count, place in zip(rows, before, range(3), strict=True):
        for number, token in enumerate(random(count, (heads + 2 * kv_heads) * WIDTH, seed=place)):
            row.read(token, heads, kv_heads, norms, bound)
            keys[place, :, 6 - count + number] = row.keys[-1].float()
            values[place, :, 6 - count + number] = row.values[-1].float()
    lengths = torch.tensor(before)
    for step in range(4):
        new = random(3, (heads + 2 * kv_heads) * WIDTH, seed=10 + step)
        found = native.attend(new, norms, EPSILON, limit, rotations(), lengths + step, keys, values, 7 + step)
        expected = [row.read(token, heads, kv_heads, norms, bound) for row, token in zip(rows, new, strict=True)]
        close(found, torch.stack(expected))


def call(native: Native, **changes: Tensor | int) -> Tensor:
    norms = (torch.ones(2 * WIDTH), torch.ones(2 * WIDTH))
    given = {
        "projected": random(2, 6 * WIDTH),
        "lengths": torch.tensor([0, 3]),
        "keys": torch.zeros(2, 2, CAPACITY, WIDTH),
        "values": torch.zeros(2, 2, CAPACITY, WIDTH),
        "end": 4,
    }
    return native.attend(norms=norms, epsilon=EPSILON, limit=None, rotations=rotations(), **{**given, **changes})  # type: ignore[arg-type]


def test_a_row_with_more_tokens_than_columns_is_an_error_and_nothing_is_written(native: Native) -> None:
    keys = torch.zeros(2, 2, CAPACITY, WIDTH)
    with pytest.raises(IndexError, match="row 1 has 3 tokens, and 3 columns are in use"):
        call(native, keys=keys, end=3)
    with pytest.raises(IndexError, match="row 0 has 0 tokens, and 13 columns are in use"):
        call(native, keys=keys, end=CAPACITY + 1)
    assert not keys.any()


MISREAD = {
    "projected": random(2, 6 * WIDTH).double(),
    "lengths": torch.tensor([0, 3], dtype=torch.int32),
    "keys": torch.zeros(2, 2, CAPACITY, 2 * WIDTH)[..., :WIDTH],
    "values": torch.zeros(2, 2, WIDTH, CAPACITY).mT,
}


@pytest.mark.parametrize("name", MISREAD)
def test_a_tensor_that_native_code_would_misread_is_an_error(native: Native, name: str) -> None:
    with pytest.raises(TypeError, match=r"expected a (contiguous )?torch\.\w+ tensor on the CPU, got"):
        call(native, **{name: MISREAD[name]})


def test_what_is_not_a_number_stays_none(native: Native) -> None:
    for place in (0, 3 * WIDTH, 5 * WIDTH):  # in a query, a key and a value
        projected = random(2, 6 * WIDTH)
        projected[1, place] = torch.nan
        found = call(native, projected=projected)
        assert found[0].isfinite().all()
        assert found[1].isnan().any()
    hidden = random(2, 4)
    hidden[1, 0] = torch.nan
    chosen, weights = torch.tensor([[0], [1]]), torch.ones(2, 1)
    found = native.experts(hidden, chosen, weights, random(2, 4, 8), random(2, 4, 4))
    assert found[0].isfinite().all()
    assert found[1].isnan().all()
    assert native.norm(hidden, torch.ones(4), EPSILON)[1].isnan().all()
