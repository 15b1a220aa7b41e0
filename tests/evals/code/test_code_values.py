"""Values cross between two processes and stay what they are."""

import json
import math
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest

from bai_pipeline.evals.code.inside.decoding import REFUSED, Decoder
from bai_pipeline.evals.code.inside.encoding import ITERATOR_ITEMS, Encoder


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


def _refuse(value: object) -> int:
    raise TypeError(type(value).__name__)


def crossed(value: object) -> Any:
    """The value on the other side."""
    encoder = Encoder(_refuse)
    reference = encoder.value(value)
    nodes, reference = json.loads(json.dumps([encoder.nodes, reference]))
    return Decoder(nodes, lambda handle: ("handle", handle)).value(reference)


VALUES: list[object] = [
    None,
    True,
    0,
    -(2**63) - 1,
    10**5000,
    0.1,
    -0.0,
    math.inf,
    5e-324,
    1 + 2j,
    complex(-0.0, math.inf),
    "",
    "a\0é😀",
    "\ud800",
    "\ud83d\ude00",
    b"\0\xff",
    bytearray(b"x"),
    [],
    [1, [2, (3,)], "x"],
    (),
    (1, [2]),
    {1, "a", (2, 3)},
    frozenset({1, frozenset({2})}),
    {},
    {1: "a", "1": "b", (1, 2): [3], None: {}, 1.5: (), frozenset(): b""},
    deque([1, 2]),
    range(3, 10, 2),
    range(10**30),
    int,
    str,
    type(None),
    Decimal("1.10"),
    Decimal("-Infinity"),
    Fraction(10**20, 3),
    date(2024, 2, 29),
    time(1, 2, 3),
    datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
    timedelta(days=-1, microseconds=1),
]


@pytest.mark.parametrize("value", VALUES, ids=[f"{type(value).__name__} {index}" for index, value in enumerate(VALUES)])
def test_a_value_is_equal_and_of_its_type_on_the_other_side(value: object) -> None:
    other = crossed(value)
    assert type(other) is type(value)
    assert other == value
    if isinstance(value, float | complex):
        assert repr(other) == repr(value)  # -0.0 == 0.0


def test_not_a_number_stays_not_a_number() -> None:
    assert math.isnan(crossed(math.nan))
    assert math.isnan(crossed(Decimal("nan")))


def test_a_dict_keeps_its_order() -> None:
    assert list(crossed({"b": 1, "a": 2, 3: 4})) == ["b", "a", 3]


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (OrderedDict([(2, 1), (1, 2)]), {2: 1, 1: 2}),
        (Point(1, 2), (1, 2)),
        (type("Loud", (str,), {"__str__": lambda self: "LOUD"})("quiet"), "quiet"),
        (type("Odd", (int,), {"__pos__": lambda self: 7})(2**70), 2**70),
        (type("Empty", (list,), {"__iter__": lambda self: iter(())})([1, 2]), [1, 2]),
        (np.float64(0.5), 0.5),
        (np.int8(-3), -3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.float32(0.5)], [0.5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_crosses_as_its_base(value: object, base: object) -> None:
    other = crossed(value)
    assert type(other) is type(base)
    assert other == base


def test_iterators_cross_as_iterators() -> None:
    assert list(crossed(x * x for x in range(3))) == [0, 1, 4]
    assert list(crossed(map(str, (1, 2)))) == ["1", "2"]
    assert next(crossed(iter([5]))) == 5
    assert list(crossed({1: 2}.keys())) == [1]
    assert crossed({1: 2}.keys()) == {1}
    assert list(crossed({1: 2, 3: 2}.values())) == [2, 2]
    assert list(crossed({1: 2}.items())) == [(1, 2)]


def test_an_iterator_raises_where_it_would_and_after_its_bound() -> None:
    failing = crossed(1 // x for x in (1, 0))
    assert next(failing) == 1
    with pytest.raises(ZeroDivisionError, match="by zero"):
        next(failing)
    endless = crossed(iter(int, 1))
    for _ in range(ITERATOR_ITEMS):
        assert next(endless) == 0
    with pytest.raises(RuntimeError, match="more than"):
        next(endless)


def test_what_is_shared_stays_shared_and_a_cycle_closes() -> None:
    row = [0]
    grid = crossed([row, row, (row,)])
    assert grid[0] is grid[1]
    assert grid[0] is grid[2][0]
    loop: list[Any] = []
    loop.append({"loop": loop})
    other = crossed(loop)
    assert other[0]["loop"] is other


def test_nesting_has_no_limit() -> None:
    value: list[Any] = []
    for _ in range(20_000):
        value = [value]
    other, depth = crossed(value), 0
    while other:
        (other,), depth = other, depth + 1
    assert depth == 20_000


def test_anything_else_is_kept_and_a_handle_crosses() -> None:
    kept: list[object] = []

    def keep(value: object) -> int:
        kept.append(value)
        return len(kept) - 1

    encoder, thing = Encoder(keep), object()
    reference = encoder.value([thing, {1: thing}, len])
    other = Decoder(encoder.nodes, lambda handle: ("handle", handle)).value(reference)
    assert other == [("handle", 0), {1: ("handle", 0)}, ("handle", 1)]
    assert kept == [thing, len]


def test_an_answer_names_what_was_given() -> None:
    given = [1]
    encoder = Encoder(_refuse, {7: given})
    reference = encoder.value([given, [1]])
    mine = [1]
    other = Decoder(encoder.nodes, lambda handle: None, {7: mine}).value(reference)
    assert other[0] is mine
    assert other[1] is not mine


@pytest.mark.parametrize(
    ("nodes", "reference"),
    [
        (None, 1),
        ({}, [0]),
        ([], [0]),
        ([], [-1]),
        ([["list", []]], [-1]),
        ([["list", []]], [True]),
        ([["list", []]], [0, 0]),
        ([["list", []]], {}),
        ([["list"]], [0]),
        ([["list", 5]], [0]),
        ([["list", [[1]]]], [0]),
        ([["set", [[1]]], ["list", []]], [0]),
        ([["dict", [[1]]]], [0]),
        ([["tuple", [[0]]]], [0]),
        ([["tuple", [[1]]], ["tuple", []]], [0]),
        ([["int", "zz"]], [0]),
        ([["int", 5]], [0]),
        ([["str", "ff"]], [0]),
        ([["bytes", "x"]], [0]),
        ([["range", [0, 1, 0]]], [0]),
        ([["range", ["a"]]], [0]),
        ([["Decimal", "x"]], [0]),
        ([["Fraction", [1, 0]]], [0]),
        ([["date", "2024-02-30"]], [0]),
        ([["timedelta", [10**10, 0, 0]]], [0]),
        ([["type", "eval"]], [0]),
        ([["given", 0]], [0]),
        ([["handle", "x"]], [0]),
        ([["handle", True]], [0]),
        ([["iterator", [[], 5]]], [0]),
        ([["object", []]], [0]),
        ([[[], []]], [0]),
    ],
)
def test_what_is_not_of_the_encoding_is_refused(nodes: Any, reference: Any) -> None:
    with pytest.raises(REFUSED):
        Decoder(nodes, lambda handle: None).value(reference)
