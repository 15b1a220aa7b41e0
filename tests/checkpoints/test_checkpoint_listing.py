"""How long lists are shown."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.checkpoints.listing import as_ranges, collapsed, is_numbered, numberless, quoted, show_rows


@given(st.lists(st.integers(0, 40)))
def test_ranges_hold_the_rows_and_no_others_in_as_few_pieces_as_there_can_be(rows: list[int]) -> None:
    ranges = as_ranges(rows)
    assert [row for first, stop in ranges for row in range(first, stop)] == sorted(set(rows))
    assert all(one[1] < other[0] for one, other in pairwise(ranges))


@pytest.mark.parametrize(
    ("ranges", "shown"),
    [
        ([(7, 8)], "row 7"),
        ([(7, 10)], "rows 7-9"),
        ([(7, 8), (9, 10)], "rows 7, 9"),
        ([(n, n + 1) for n in range(0, 14, 2)], "rows 0, 2, 4, 6, 8, …"),
    ],
)
def test_rows_are_shown_with_the_last_one_included(ranges: list[tuple[int, int]], shown: str) -> None:
    assert show_rows(ranges) == shown


def test_the_number_of_a_layer_is_a_part_of_its_own() -> None:
    assert numberless("h.0.mlp.experts.11.w1.weight") == "h.*.mlp.experts.*.w1.weight"
    assert not is_numbered("lm_head2.weight_1")


def test_up_to_five_of_a_kind_are_shown_one_by_one() -> None:
    assert collapsed([("x", f"line {n}") for n in range(5)]) == [f"line {n}" for n in range(5)]
    assert collapsed([("y", "other"), *[("x", f"line {n}") for n in range(6)]]) == [
        "other",
        "line 0; likewise 5 more (x)",
    ]
    assert quoted("abcde") == "'a', 'b', 'c', 'd', 'e'"
    assert quoted("abcdef") == "'a', 'b', 'c', 'd', 'e', …"
