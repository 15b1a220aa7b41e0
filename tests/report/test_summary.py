from math import isnan, sqrt

import pandas as pd
import pytest

from bai_pipeline.report import summarize


def run(
    init: str, seed: int, length: list[float], score: list[float], accuracy: list[float] | None = None
) -> pd.DataFrame:
    table = pd.DataFrame({"step": range(len(length)), "length_mean": length, "score_mean": score})
    if accuracy is not None:
        table["accuracy"] = accuracy
    return table.assign(init=init, seed=seed)


def test_start_is_the_first_step_and_end_the_mean_of_the_last_fifth() -> None:
    # ten steps: the end is the mean of the last two
    summary = summarize(run("a", 0, [50.0, *[40.0] * 7, 20.0, 30.0], [0.0] * 8 + [1.0, 3.0]))
    line = summary.iloc[0]
    assert (line["length_start"], line["length_end"], line["length_ratio"]) == (50.0, 25.0, 0.5)
    assert (line["score_end"], line["score_change"]) == (2.0, 2.0)


def test_changes_are_averaged_over_seeds_with_their_error() -> None:
    # ratios 0.5 and 1.0: mean 0.75, standard error sqrt(0.125 / 2) = 0.25
    runs = pd.concat([run("a", 0, [40.0, 20.0], [0.0, 1.0]), run("a", 1, [20.0, 20.0], [0.0, 2.0])])
    line = summarize(runs).iloc[0]
    assert line["seeds"] == 2
    assert line["length_ratio"] == 0.75
    assert line["length_ratio_stderr"] == pytest.approx(0.25)
    assert line["score_change"] == 1.5
    assert line["score_change_stderr"] == pytest.approx(sqrt(0.5 / 2))


def test_one_seed_has_no_error_and_runs_without_accuracy_no_accuracy() -> None:
    line = summarize(run("a", 0, [1.0, 1.0], [0.0, 0.0])).iloc[0]
    assert isnan(line["length_ratio_stderr"])
    assert isnan(line["accuracy_change"])


def test_steps_may_come_in_any_order() -> None:
    table = run("a", 0, [50.0, 40.0, 30.0], [0.0, 1.0, 2.0])
    assert summarize(table.iloc[::-1]).equals(summarize(table))
