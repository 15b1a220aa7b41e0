"""Where each run starts and ends: the numbers that the report's sentences are computed from.

The start of a run is its first step: the responses of the initialization itself, before any update. Its end is the mean
over the last fifth of its steps (at least one). Changes are taken run by run and then averaged over seeds, with the
standard error of that mean (NaN with one seed).
"""

import pandas as pd

from bai_pipeline.dynamics.sweeps import END_SHARE
from bai_pipeline.report.curves import check_runs, init_order


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per init.

    Returns:
        init, seeds, steps (of the shortest run), and each with a `_stderr`: length_start, length_end (tokens),
        length_ratio (end over start), score_start, score_end, score_change, accuracy_start, accuracy_end,
        accuracy_change (NaN where accuracy was not recorded).

    Raises:
        DataError: a metric is absent, or a line is there twice.
    """
    check_runs(runs, ["length_mean", "score_mean"])
    table = runs if "accuracy" in runs.columns else runs.assign(accuracy=float("nan"))
    per_run = [
        {"init": init, "seed": seed} | _run_numbers(run)
        for init, group in table.sort_values("step").groupby("init")
        for seed, run in group.groupby("seed")
    ]
    seeds = pd.DataFrame(per_run)
    lines = [_line(str(init), group) for init, group in seeds.groupby("init")]
    lines.sort(key=lambda line: init_order(str(line["init"])))
    return pd.DataFrame(lines)


def _run_numbers(run: pd.DataFrame) -> dict[str, float]:
    """Numbers of one run, its steps in order."""
    last = max(1, len(run) // END_SHARE)
    numbers: dict[str, float] = {"steps": len(run)}
    for name, metric in (("length", "length_mean"), ("score", "score_mean"), ("accuracy", "accuracy")):
        numbers[f"{name}_start"] = float(run[metric].iloc[0])
        numbers[f"{name}_end"] = float(run[metric].tail(last).mean())
    numbers["length_ratio"] = numbers["length_end"] / numbers["length_start"]
    numbers["score_change"] = numbers["score_end"] - numbers["score_start"]
    numbers["accuracy_change"] = numbers["accuracy_end"] - numbers["accuracy_start"]
    return numbers


def _line(init: str, seeds: pd.DataFrame) -> dict[str, float | int | str]:
    line: dict[str, float | int | str] = {"init": init, "seeds": len(seeds), "steps": int(seeds["steps"].min())}
    numbers = seeds.drop(columns=["init", "seed", "steps"])
    for column, mean in numbers.mean().to_dict().items():
        line[str(column)] = mean
    for column, error in numbers.sem().to_dict().items():
        line[f"{column}_stderr"] = error
    return line
