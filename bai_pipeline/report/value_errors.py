"""The critic's error by prefix length, at the start of training and at its end."""

from dataclasses import replace

import pandas as pd

from bai_pipeline.dynamics.sweeps import END_SHARE
from bai_pipeline.report.colours import display_name, look
from bai_pipeline.report.curves import init_order
from bai_pipeline.report.pictures import Line, Panel

FIRST_STEPS = 3
"""Steps of the first panel: what the copied critic believes before training has changed it."""
SMALLEST = 32
"""Tokens of a seed below which a prefix length is not drawn."""


def value_error_panels(prefixes: pd.DataFrame) -> list[Panel]:
    """The mean of V − R over the first steps and over the last fifth, each seed's by tokens, then over seeds.

    Args:
        prefixes: init, seed, step, prefix (tokens), tokens, value_error.

    Returns:
        A panel for each that has points.
    """
    rank = prefixes.groupby(["init", "seed"])["step"].rank("dense")
    steps = rank.groupby([prefixes["init"], prefixes["seed"]]).transform("max")
    last = (steps // END_SHARE).clip(lower=1)
    wanted = {
        f"Value error, first {FIRST_STEPS} steps": rank <= FIRST_STEPS,
        f"Value error, last {100 // END_SHARE}% of the steps": rank > steps - last,
    }
    panels = []
    for title, chosen in wanted.items():
        curves = _over_seeds(prefixes[chosen])
        inits = sorted(curves["init"].unique(), key=init_order)
        lines = tuple(Line(display_name(i), look(i), curves[curves["init"] == i]) for i in inits)
        if lines:
            panels.append(Panel(title, "prefix", "prefix length (tokens)", "V − R (score)", lines, baseline=0.0))
    low = min((line.points[["mean", "low"]].min().min() for p in panels for line in p.lines), default=0.0)
    high = max((line.points[["mean", "high"]].max().max() for p in panels for line in p.lines), default=0.0)
    room = 0.05 * (high - low)
    bounds = (float(low - room), float(high + room))
    return [replace(panel, bounds=bounds) for panel in panels]


def _over_seeds(prefixes: pd.DataFrame) -> pd.DataFrame:
    """init, prefix, tokens, seeds, mean, low, high."""
    known = prefixes.dropna(subset=["value_error"])
    sums = known.assign(total=known["value_error"] * known["tokens"]).groupby(["init", "seed", "prefix"])
    each = sums[["total", "tokens"]].sum().reset_index()
    each = each[each["tokens"] >= SMALLEST]
    each["error"] = each["total"] / each["tokens"]
    groups = each.groupby(["init", "prefix"])
    table = groups.agg(tokens=("tokens", "sum"), seeds=("error", "count"), mean=("error", "mean"), sem=("error", "sem"))
    table = table.reset_index()
    table["low"], table["high"] = table["mean"] - table["sem"], table["mean"] + table["sem"]
    return table.drop(columns="sem")
