"""Training curves: means over seeds of the `steps` tables of many runs.

A `runs` table is the concatenation of the runs' `steps` tables with a column `init` ("paradigm_1", "paradigm_3",
"alpha 0.5", …): one line per init, seed and step.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from bai_pipeline.errors import DataError

RUN_COLUMNS = ("init", "seed", "step")
CURVE_COLUMNS = ["init", "step", "seeds", "mean", "low", "high"]


def init_order(init: str) -> tuple[int, float, str]:
    """Sort key: Paradigm 1, Paradigm 3, alphas ascending, then anything else by name."""
    alpha = alpha_of(init)
    if alpha is not None:
        return (2, alpha, init)
    return ({"paradigm_1": 0, "paradigm_3": 1}.get(init, 3), 0.0, init)


def alpha_of(init: str) -> float | None:
    """0.5 for "alpha 0.5", None for an init that is no blend.

    Raises:
        DataError: the word alpha is not followed by a number in [0, 1].
    """
    if not init.startswith("alpha "):
        return None
    try:
        alpha = float(init.removeprefix("alpha "))
    except ValueError:
        alpha = float("nan")
    if not 0.0 <= alpha <= 1.0:
        raise DataError(f'expected an init such as "alpha 0.5" with alpha in [0, 1], got {init!r}')
    return alpha


def inits_named(inits: Iterable[object], wanted: Sequence[str]) -> list[str]:
    """Those of `inits` that are wanted, in order; "alpha 0.50" is "alpha 0.5"."""
    alphas = {alpha_of(name) for name in wanted} - {None}
    found = {str(init) for init in inits}
    return sorted((init for init in found if init in wanted or alpha_of(init) in alphas), key=init_order)


def check_runs(runs: pd.DataFrame, metrics: Sequence[str]) -> None:
    """Raise DataError unless `runs` has `metrics` and one line per (init, seed, step)."""
    absent = [c for c in [*RUN_COLUMNS, *metrics] if c not in runs.columns]
    if absent:
        raise DataError(f"expected a table of runs with {', '.join(absent)}, got columns {', '.join(runs.columns)}")
    twice = runs[runs.duplicated(list(RUN_COLUMNS))]
    if not twice.empty:
        init, seed, step = twice.iloc[0][list(RUN_COLUMNS)]
        raise DataError(f"expected one line per init, seed and step, got several for {init}, seed {seed}, step {step}")


def curve(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean of `metric` over seeds, with a band of one standard error of that mean.

    Returns:
        init, step, seeds, mean, low, high; low and high are NaN where there is one seed.
    """
    check_runs(runs, [metric])
    groups = runs.dropna(subset=[metric]).groupby(["init", "step"])[metric]
    table = groups.agg(seeds="count", mean="mean", sem="sem").reset_index()
    table["low"], table["high"] = table["mean"] - table["sem"], table["mean"] + table["sem"]
    order = table["init"].map({init: i for i, init in enumerate(sorted(table["init"].unique(), key=init_order))})
    return table.assign(order=order).sort_values(["order", "step"])[CURVE_COLUMNS].reset_index(drop=True)


def windowed(runs: pd.DataFrame, metric: str, window: int) -> pd.DataFrame:
    """`runs` with the mean of `metric` over each `window` of steps, run by run, at the first step of the window.

    The first window begins at the table's first step.
    """
    check_runs(runs, [metric])
    first = runs["step"].min()
    step = first + (runs["step"] - first) // window * window
    return runs.assign(step=step).groupby(list(RUN_COLUMNS))[metric].mean().reset_index()


def relative_to_start(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`runs` with `metric` divided by the run's own value at its first step, seed by seed.

    Raises:
        DataError: a run starts at 0 or below, or without a value.
    """
    check_runs(runs, [metric])
    ordered = runs.sort_values("step")
    start = ordered.groupby(["init", "seed"])[metric].transform(lambda values: values.iloc[0])
    bad = ordered[~(start > 0)]
    if not bad.empty:
        raise DataError(
            f"expected a positive {metric} at the first step, got none for {bad.iloc[0]['init']}, "
            f"seed {bad.iloc[0]['seed']}"
        )
    return ordered.assign(**{metric: ordered[metric] / start})
