from collections.abc import Sequence
from dataclasses import replace
from math import exp, isnan, log
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.report.run_numbers import QUANTITIES, incomplete_runs, run_numbers
from bai_pipeline.report.setting_results import SettingResults

LENGTHS = (100.0, 80.0, 50.0, 60.0, 40.0)
"""Of five steps: start, early, middle, and last the end, one step each."""


def results(steps: pd.DataFrame | None = None, **tables: Any) -> SettingResults:
    empty = {name: pd.DataFrame() for name in ("responses", "prefixes", "verdicts", "scores")}
    runs = run() if steps is None else steps
    fixed: dict[str, Any] = {"study": "micro", "description": "", "headline_alpha": "0.5", "bucket_width": 20}
    return SettingResults(**fixed, chains=(0,), seeds=(0,), missing=(), runs=runs, **(empty | tables))


def run(lengths: Sequence[float] = LENGTHS, init: str = "paradigm_3", seed: int = 0, **columns: Any) -> pd.DataFrame:
    table = pd.DataFrame({"step": range(len(lengths)), "length_mean": lengths})
    return table.assign(chain=0, init=init, seed=seed, **columns)


def only(found: pd.DataFrame) -> Any:
    assert len(found) == 1
    return found.iloc[0]


def test_lengths_are_compared_between_the_windows() -> None:
    numbers = only(run_numbers(results()))
    assert (numbers["length_start"], numbers["length_end"]) == (100.0, 40.0)
    assert numbers["length"] == pytest.approx(log(0.4))
    assert numbers["length_early"] == pytest.approx(log(0.8))
    assert numbers["length_first_half"] == pytest.approx(log(0.5))
    assert numbers["length_second_half"] == pytest.approx(log(40 / 50))
    assert numbers["length_next"] == pytest.approx(log(60 / ((100 + 80 + 50) / 3)))


def test_the_windows_of_twenty_steps() -> None:
    lengths = [10.0] + [20.0] * 4 + [30.0] * 3 + [40.0] * 4 + [50.0] * 4 + [60.0] * 4
    numbers = only(run_numbers(results(run(lengths))))
    assert exp(numbers["length_early"]) == pytest.approx(2)  # steps 1-4 of 19
    assert exp(numbers["length_first_half"]) == pytest.approx(4)  # steps 8-11
    assert exp(numbers["length"]) == pytest.approx(6)  # steps 16-19


def test_a_short_run_has_no_windows() -> None:
    numbers = only(run_numbers(results(run(LENGTHS[:4]))))
    assert numbers["steps"] == 4
    assert all(isnan(numbers[name]) for name in QUANTITIES)


def test_scores_change_in_standard_deviations_of_the_first_step() -> None:
    steps = run(score_mean=[1.0, 0.0, 0.0, 0.0, 2.0], score_std=[2.0, 9.0, 9.0, 9.0, 9.0])
    assert only(run_numbers(results(steps)))["score_change"] == pytest.approx(0.5)
    assert isnan(only(run_numbers(results(steps.assign(score_std=0.0))))["score_change"])


def test_accuracy_and_kl() -> None:
    kl = [1.0, np.e, 1.0, np.e, 1.0]
    numbers = only(run_numbers(results(run(accuracy=[0.9, 0.0, 0.0, 0.0, 0.5], kl_train_sample=kl))))
    assert numbers["accuracy_change"] == pytest.approx(-0.4)
    assert (numbers["kl"], numbers["kl_volatility"]) == (pytest.approx(0.0), pytest.approx(1.0))


def test_what_was_not_recorded_is_nan() -> None:
    numbers = only(run_numbers(results()))
    absent = set(QUANTITIES) - {name for name in QUANTITIES if name.startswith("length")}
    assert all(isnan(numbers[name]) for name in absent)


def responses(*windows: Sequence[tuple[int, float]]) -> pd.DataFrame:
    """(length, score) of the responses of the steps 0, 1 and 4."""
    rows = [
        {"chain": 0, "init": "paradigm_3", "seed": 0, "step": step, "length": length, "score": score}
        for step, window in zip((0, 1, 4), windows, strict=True)
        for length, score in window
    ]
    return pd.DataFrame(rows)


def test_a_fall_inside_every_bucket_is_a_decline_and_its_return_a_recovery() -> None:
    table = responses([(5, 1.0), (25, 3.0)], [(5, 0.5), (25, 2.5)], [(5, 1.0), (25, 2.9)])
    numbers = only(run_numbers(results(run(score_std=2.0), responses=table)))
    assert numbers["decline"] == pytest.approx(0.5 / 2)
    assert numbers["recovery"] == pytest.approx(0.45 / 2)


def test_mass_that_moves_to_a_bucket_of_lower_scores_is_no_decline() -> None:
    table = responses([(5, 1.0), (25, 3.0)], [(5, 1.0), (5, 1.0)], [(5, 1.0), (25, 3.0)])
    numbers = only(run_numbers(results(run(score_std=1.0), responses=table)))
    assert numbers["decline"] == pytest.approx(0.0)


def scores(**models: Sequence[float]) -> pd.DataFrame:
    rows = [
        {"chain": 0, "model": model, "seed": 0 if "paradigm" in model else -1, "benchmark": f"b{k}", "score": value}
        for model, values in models.items()
        for k, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_the_worse_side_is_that_of_length_or_accuracy_which_was_kept_less() -> None:
    table = scores(paradigm_3=(0.2, 0.4), reasoning_sft=(0.5, 0.5))
    found = run_numbers(results(scores=table)).set_index("init")
    assert found["benchmark"].to_dict() == {"paradigm_3": pytest.approx(0.3), "reasoning_sft": pytest.approx(0.5)}
    assert found["worse_side"]["paradigm_3"] == pytest.approx(0.4)  # of length; accuracy kept 0.6
    longer = run_numbers(results(run((10.0, 1.0, 1.0, 1.0, 10.0)), scores=table)).set_index("init")
    assert longer["worse_side"]["paradigm_3"] == pytest.approx(0.6)


def test_a_model_without_a_benchmark_has_no_average() -> None:
    found = run_numbers(results(scores=scores(paradigm_3=(0.2,), reasoning_sft=(0.5, 0.5)))).set_index("init")
    assert isnan(found["benchmark"]["paradigm_3"])
    hole = run_numbers(results(scores=scores(paradigm_3=(0.2, np.nan), reasoning_sft=(0.5, 0.5)))).set_index("init")
    assert isnan(hole["benchmark"]["paradigm_3"])


def test_runs_that_did_not_end_are_left_out_and_named() -> None:
    table = results(pd.concat([run(), run(LENGTHS[:3], seed=1)]))
    assert run_numbers(table)["seed"].tolist() == [0]
    assert incomplete_runs(table) == ["chain 0: paradigm_3, seed 1 has 3 of 5 steps"]


def test_nothing_run_gives_no_line() -> None:
    assert run_numbers(results(pd.DataFrame())).empty
    assert incomplete_runs(results(pd.DataFrame())) == []


def test_a_step_that_is_there_twice_is_an_error() -> None:
    with pytest.raises(DataError, match="one line per chain, init, seed, step in runs, got several for 0, paradigm_3"):
        results(pd.concat([run(), run()]))


def test_a_table_without_its_columns_is_an_error() -> None:
    with pytest.raises(DataError, match="setting micro: the table runs has no column chain"):
        results(run().drop(columns="chain"))


def test_pooled_seeds_are_unique_over_chains() -> None:
    found = results(pd.concat([run(), run().assign(chain=1)]))
    assert found.pooled(found.runs)["seed"].unique().tolist() == [0, 1000]
    assert replace(found, runs=pd.DataFrame()).pooled(pd.DataFrame()).empty
