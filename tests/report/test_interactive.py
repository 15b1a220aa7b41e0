import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.report.interactive import thinned


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(6, 60))
def test_a_thinned_line_keeps_its_ends_and_its_extremes(values: list[float], limit: int) -> None:
    points = pd.DataFrame({"mean": values})
    kept = thinned(points, limit)
    assert len(kept) <= max(limit, len(points) if len(points) <= limit else 0)
    assert kept.index.is_monotonic_increasing
    assert {0, len(points) - 1} <= set(kept.index)
    assert (kept["mean"].min(), kept["mean"].max()) == (min(values), max(values))


def test_a_short_line_is_kept_whole() -> None:
    points = pd.DataFrame({"mean": [1.0, 2.0, 1.5]})
    assert thinned(points, 6) is points
