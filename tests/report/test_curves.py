from math import isnan

import pandas as pd
import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.report import curve, relative_to_start
from bai_pipeline.report.curves import alpha_of, init_order, inits_named, windowed


def runs(*rows: tuple[str, int, int, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["init", "seed", "step", "length_mean"])


def test_a_curve_is_the_mean_over_seeds_with_one_standard_error_either_side() -> None:
    # 10 and 14: mean 12, variance 8, standard error sqrt(8 / 2) = 2
    table = curve(runs(("alpha 0.5", 0, 0, 10.0), ("alpha 0.5", 1, 0, 14.0)), "length_mean")
    assert table.iloc[0].tolist() == ["alpha 0.5", 0, 2, 12.0, 10.0, 14.0]


def test_one_seed_has_no_band() -> None:
    line = curve(runs(("alpha 0.5", 0, 0, 10.0)), "length_mean").iloc[0]
    assert (line["seeds"], line["mean"]) == (1, 10.0)
    assert isnan(line["low"])
    assert isnan(line["high"])


def test_inits_are_ordered_paradigms_first_then_alphas_by_value() -> None:
    names = ["alpha 0.9", "merged_sft", "alpha 0.10", "paradigm_3", "paradigm_1"]
    assert sorted(names, key=init_order) == ["paradigm_1", "paradigm_3", "alpha 0.10", "alpha 0.9", "merged_sft"]
    table = curve(runs(*((name, 0, step, 1.0) for name in names for step in (1, 0))), "length_mean")
    assert table["init"].drop_duplicates().tolist() == sorted(names, key=init_order)
    assert table["step"].tolist() == [0, 1] * 5


def test_each_run_is_divided_by_its_own_start() -> None:
    # the seeds start at 10 and 20 and both double: every ratio is 2, while the ratio of the means hides nothing here
    table = relative_to_start(
        runs(("a", 0, 1, 20.0), ("a", 0, 0, 10.0), ("a", 1, 0, 20.0), ("a", 1, 1, 40.0)), "length_mean"
    )
    assert table.sort_values(["seed", "step"])["length_mean"].tolist() == [1.0, 2.0, 1.0, 2.0]


def test_a_window_is_the_mean_of_its_steps_at_the_first_of_them() -> None:
    # steps 1 to 5 in windows of two from the first step on: 1-2, 3-4 and 5 alone
    table = windowed(runs(*(("a", 0, step, 10.0 * step) for step in range(1, 6))), "length_mean", 2)
    assert table[["step", "length_mean"]].to_numpy().tolist() == [[1, 15.0], [3, 35.0], [5, 50.0]]


def test_inits_are_found_by_the_value_of_alpha() -> None:
    found = inits_named(["alpha 0.50", "paradigm_3", "alpha 0.1"], ["alpha 0.5", "paradigm_3", "paradigm_1"])
    assert found == ["paradigm_3", "alpha 0.50"]


def test_a_run_that_starts_at_nothing_has_no_ratio() -> None:
    with pytest.raises(DataError, match="positive length_mean at the first step, got none for a, seed 3"):
        relative_to_start(runs(("a", 3, 0, 0.0), ("a", 3, 1, 5.0)), "length_mean")


def test_a_step_that_is_there_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="several for a, seed 0, step 2"):
        curve(runs(("a", 0, 2, 1.0), ("a", 0, 2, 1.0)), "length_mean")


def test_a_metric_that_is_absent_is_an_error() -> None:
    with pytest.raises(DataError, match="kl_train_sample"):
        curve(runs(("a", 0, 2, 1.0)), "kl_train_sample")


@pytest.mark.parametrize("init", ["alpha", "paradigm_1"])
def test_other_inits_have_no_alpha(init: str) -> None:
    assert alpha_of(init) is None


@pytest.mark.parametrize("init", ["alpha 1.5", "alpha half"])
def test_an_alpha_outside_its_range_is_an_error(init: str) -> None:
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        alpha_of(init)
