"""Where a new alpha, or more seeds, would tell most, by fixed rules and in this order:

1. border: between two neighbors of the grid of which one is stable (more than half of its runs) and the other is not
   (less than half).
2. between: for growth, score, accuracy and the benchmarks' average, between the best alpha and each neighbor that is
   lower for sure. At an end of the grid, 0 or 1 takes the place of the neighbor that is not there.
3. seeds: where the best is tied, noise is what limits and not the grid: more seeds at the best and at the next one of
   those that it is tied with, the two that best-arm identification draws from (Kalyanakrishnan et al. 2012, "LUCB").

A new alpha is the multiple of 0.05 strictly between the two that lies nearest their middle, of two such the one nearer
to the better side; none where the two are 0.05 apart or less.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal
from itertools import pairwise

import pandas as pd

from bai_pipeline.dynamics.standings import Standing
from bai_pipeline.dynamics.sweeps import AVERAGE
from bai_pipeline.study import alpha_key

RESOLUTION = Decimal("0.05")


def next_alphas(standings: Sequence[Standing], grid: Sequence[str]) -> pd.DataFrame:
    """The rules applied.

    Args:
        standings: of all goals, stability first.
        grid: the alphas, in order.

    Returns:
        alpha, reason; one line per alpha, by the first rule that names it.
    """
    goals: dict[str, dict[str, list[str]]] = {}
    for alpha, reason, goal in [*_border(standings[0], grid), *_between(standings, grid), *_seeds(standings)]:
        goals.setdefault(alpha, {}).setdefault(reason, []).append(goal)
    lines = [
        {"alpha": alpha, "reason": " ".join(f"{reason} ({', '.join(names)})." for reason, names in reasons.items())}
        for alpha, reasons in goals.items()
    ]
    return pd.DataFrame(lines, columns=["alpha", "reason"])


Proposal = tuple[str, str, str]
"""An alpha, the reason without its full stop, the goal."""


def _border(stability: Standing, grid: Sequence[str]) -> Iterator[Proposal]:
    shares = stability.means
    for pair in pairwise(grid):
        if not shares.keys() >= {*pair}:
            continue
        stable, unstable = sorted(pair, key=lambda alpha: -shares[alpha])
        if shares[stable] > 0.5 > shares[unstable] and (new := midpoint(stable, unstable)):
            where = f"alpha {stable} is stable in {shares[stable]:.0%} of its runs, alpha {unstable} in"
            yield new, f"Border: {where} {shares[unstable]:.0%}", stability.goal.name


def _between(standings: Sequence[Standing], grid: Sequence[str]) -> Iterator[Proposal]:
    for standing in _decisive(standings):
        if (best := standing.best) is None:
            continue
        place = grid.index(best)
        neighbors = (*grid[max(0, place - 1) : place], *grid[place + 1 : place + 2])
        lower = [other for other in neighbors if other in standing.means and standing.better(best, other)]
        for other in lower:
            if new := midpoint(best, other):
                yield new, f"Between alpha {best}, the best, and alpha {other}, which is lower", standing.goal.name
        end = {0: "0.0", len(grid) - 1: "1.0"}.get(place)
        if end and lower and (new := midpoint(best, end)):
            yield new, f"Alpha {best}, the best, is an end of the grid", standing.goal.name


def _seeds(standings: Sequence[Standing]) -> Iterator[Proposal]:
    for standing in _decisive(standings):
        if not standing.tied or standing.best is None:
            continue
        best, rival = standing.best, standing.tied[0]
        needed = standing.units_needed(best, rival)
        goal = standing.goal.name + (f": {needed} in all or more" if needed else "")
        unit = "chains" if standing.clustered else "seeds"
        for alpha, other in ((best, rival), (rival, best)):
            yield alpha, f"More {unit}: it is not resolved from alpha {other}", goal


def midpoint(better: str, worse: str) -> str | None:
    """The alpha between two, see the module; None where the grid is as fine as `RESOLUTION`."""
    low, high = sorted((Decimal(better), Decimal(worse)))
    first = int((low / RESOLUTION).to_integral_value(ROUND_CEILING))
    inside = [step * RESOLUTION for step in range(first, int(high / RESOLUTION) + 1) if low < step * RESOLUTION < high]
    middle = (low + high) / 2
    chosen = min(inside, key=lambda new: (abs(new - middle), abs(new - Decimal(better))), default=None)
    return None if chosen is None or high - low <= RESOLUTION else alpha_key(chosen)


def _decisive(standings: Sequence[Standing]) -> list[Standing]:
    """Without stability, and without single benchmarks where there is an average."""
    average = any(s.goal.name == AVERAGE for s in standings)
    return [
        s
        for s in standings
        if s.goal.kind != "share" and (s.goal.kind != "benchmark" or s.goal.name == AVERAGE or not average)
    ]
