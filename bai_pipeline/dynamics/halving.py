"""Successive halving (`ladder`): which alphas continue after a rung, and its advice beside that of the full grid."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from math import exp, nan

import pandas as pd

from bai_pipeline.dynamics.ladder import Rung
from bai_pipeline.dynamics.recommendation import Recommendation
from bai_pipeline.dynamics.standings import Goal, Kind, Standing, stand
from bai_pipeline.dynamics.sweeps import RUN, failures, run_name, run_numbers, runs_of_alphas
from bai_pipeline.dynamics_settings import HalvingSettings
from bai_pipeline.errors import DataError

LEVEL = 0.05
DECISION_COLUMNS = ["alpha", "decision", "reason", "value", "low", "high"]
_KINDS: dict[str, Kind] = {"score": "number", "accuracy": "accuracy", "growth": "log_ratio"}


def decide(
    rung: Rung,
    runs: pd.DataFrame,
    verdicts: pd.DataFrame,
    settings: HalvingSettings,
    *,
    alphas: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Which alphas continue after a rung.

    An alpha collapses when more than half of its runs do (length, entropy or router); it is dropped, however good its
    score. Of the others the best by the goal continue, at the mean over runs; equal ones in the order of the grid. Of
    alphas that all collapse, `survivors` continue all the same.

    Args:
        runs: `steps` tables with init ("alpha 0.5"), seed and optionally chain; steps from the rung's on are ignored.
        verdicts: of these runs up to the rung: init, seed, detector, verdict, and chain if `runs` has it.
        alphas: that were trained up to the rung; default all of `runs`.

    Returns:
        alpha, decision ("continue" or "dropped"), reason, value, low, high (95 % band over the runs, NaN with one; the
        goal's last fifth of the rung, growth as a ratio), in the order of the grid.

    Raises:
        DataError: a run is absent, is shorter than the rung without having collapsed, or lacks the goal or a diagnosis.
    """
    inits = [str(init) for init in runs["init"].unique()]
    trained = alphas or [init.removeprefix("alpha ") for init in inits if init.startswith("alpha ")]
    grid = sorted(trained, key=Decimal)
    table = runs_of_alphas(runs, grid)
    numbers = run_numbers(table[table["step"] < rung.until_step])
    known = numbers.merge(failures(runs_of_alphas(verdicts, grid)), on=RUN, how="left")
    known = known.assign(value=known[settings.goal], stderr=nan)
    _check(known, grid, rung, settings.goal)
    values = known[[*RUN, "value", "stderr"]]
    standing = stand(Goal(settings.goal, settings.goal, "", _KINDS[settings.goal], values, {}), grid, LEVEL)
    collapses = {str(alpha): runs["collapsed"].tolist() for alpha, runs in known.groupby("alpha")}
    collapsing = {alpha for alpha, run in collapses.items() if 2 * sum(run) > len(run)}
    kept = [alpha for alpha in standing.order if alpha not in collapsing][: rung.survivors]
    spared = [alpha for alpha in standing.order if alpha in collapsing][: max(0, settings.survivors - len(kept))]
    scale = exp if settings.goal == "growth" else float
    lines = []
    for alpha in grid:
        reason = _reason(standing, alpha, kept)
        if alpha in collapsing:
            reason = f"{sum(collapses[alpha])} of its {len(collapses[alpha])} runs collapsed."
        if alpha in spared:
            reason += f" It continues because too few others are left: {settings.survivors} are to come to the end."
        band = (scale(number) for number in (standing.means[alpha], *standing.bands[alpha]))
        lines.append([alpha, "continue" if alpha in {*kept, *spared} else "dropped", reason, *band])
    return pd.DataFrame(lines, columns=DECISION_COLUMNS)


def compare(halving: Recommendation, full: Recommendation) -> pd.DataFrame:
    """The advice of successive halving beside that of the full grid.

    Returns:
        goal, unit, agreement ("same"; "tied": the full grid does not resolve halving's choice from its own best;
        "different"; "not compared": one of them has none), and halving, halving_value, halving_low, halving_high,
        full, full_value, full_low, full_high; goals in the order of the full grid's.
    """
    names = {"alpha": "", "value": "_value", "low": "_low", "high": "_high"}
    sides = [
        side.goals[["goal", *names]].rename(columns={column: f"{label}{end}" for column, end in names.items()})
        for label, side in (("halving", halving), ("full", full))
    ]
    table = full.goals[["goal", "unit", "tied"]].merge(sides[0], on="goal", how="left").merge(sides[1], on="goal")
    agreement = [_agreement(*line) for line in table[["halving", "full", "tied"]].itertuples(index=False, name=None)]
    table.insert(2, "agreement", agreement)
    return table.drop(columns="tied")


def _agreement(halving: object, full: object, tied: str) -> str:
    if not (isinstance(halving, str) and isinstance(full, str)):
        return "not compared"
    if halving == full:
        return "same"
    return "tied" if halving in tied.split(", ") else "different"


def _reason(standing: Standing, alpha: str, kept: Sequence[str]) -> str:
    place = f"Number {standing.order.index(alpha) + 1} of {len(standing.order)} by {standing.goal.name}"
    if alpha in kept:
        return f"{place}."
    if standing.units < 2:
        return f"{place}, with one {'chain' if standing.clustered else 'seed'}: it may be chance."
    ahead = [other for other in kept if not standing.better(other, alpha)]
    if not ahead:
        return f"{place}, resolved from all that continue."
    return f"{place}, not resolved from alpha {', '.join(ahead)}: it may be chance."


def _check(known: pd.DataFrame, grid: Sequence[str], rung: Rung, goal: str) -> None:
    """Raise DataError with every run whose data is missing."""
    runs = {tuple(line[:3]): line[3:] for line in known[[*RUN, *_CHECKED]].itertuples(index=False, name=None)}
    faults = []
    for alpha, (chain, seed) in product(grid, sorted({key[1:] for key in runs}) or [("", "unknown")]):
        name = run_name(alpha, chain, seed)
        if (alpha, chain, seed) not in runs:
            faults.append(f"{name} has no steps before {rung.until_step}")
            continue
        steps, collapsed, value = runs[alpha, chain, seed]
        if pd.isna(collapsed):
            faults.append(f"{name} has no verdicts")
        if steps < rung.until_step and collapsed is not True:
            faults.append(f"{name} ends after {steps} steps")
        if pd.isna(value):
            faults.append(f"{name} has no {goal}")
    if len(grid) > rung.alphas:
        faults.append(f"there are {len(grid)} alphas")
    if faults:
        raise DataError(
            f"expected {rung.alphas} alphas or fewer, each trained for {rung.until_step} steps and diagnosed, with "
            f"{goal}: {'; '.join(faults)}; nothing was decided"
        )


_CHECKED = ["steps", "collapsed", "value"]
