"""Pictures as the data that the page's script draws."""

from math import ceil, isfinite
from typing import Any

import numpy as np
import pandas as pd

from bai_pipeline.report.pictures import Line, Panel, Picture

MAX_POINTS = 400
"""Points of a line on the page, at most: about one a pixel."""
_MARKERS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "": ""}
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}


def interactive(picture: Picture) -> dict[str, Any]:
    """Panels, lines and numbers, in the names of the page's script."""
    return {"panels": [_panel(panel) for panel in picture.panels]}


def thinned(points: pd.DataFrame, limit: int = MAX_POINTS) -> pd.DataFrame:
    """At most `limit` of the points, in order: the first, the last, and of each of equal stretches the two extremes.

    A line through them looks as one through all of them does, and no spike is lost, as it would be with every k-th
    point or with means.
    """
    if len(points) <= limit:
        return points
    size = ceil((len(points) - 2) / ((limit - 2) // 2))
    stretch = np.arange(len(points) - 2) // size
    inner = points["mean"].iloc[1:-1].reset_index(drop=True).groupby(stretch)
    extremes = {*(inner.idxmin() + 1), *(inner.idxmax() + 1)}
    return points.iloc[sorted({0, *extremes, len(points) - 1})]


def thinning_note(picture: Picture) -> str:
    """What of the picture the page leaves out; "" where that is nothing."""
    longest = max((len(line.points) for panel in picture.panels for line in panel.lines), default=0)
    if longest <= MAX_POINTS:
        return ""
    return (
        f"Lines of {longest:,} points are drawn through {MAX_POINTS} of them or fewer: the lowest and the highest of "
        "each short stretch, so that no spike is lost. The CSV has all."
    )


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "title": panel.title,
        "x": panel.x_label,
        "y": panel.y_label,
        "bounds": panel.bounds,
        "baseline": panel.baseline,
        "step": panel.step,
        "lines": [_line(line, panel.x) for line in panel.lines],
    }


def _line(line: Line, x: str) -> dict[str, Any]:
    points = thinned(line.points)
    look = {
        "name": line.label,
        "light": line.look.light,
        "dark": line.look.dark,
        "marker": _MARKERS[line.look.marker],
        "dash": _DASHES[line.look.dash],
    }
    columns = {"x": x, "mean": "mean", "low": "low", "high": "high", "seeds": "seeds"}
    if "n" in points.columns:
        columns["n"] = "n"
    return look | {key: [_number(value) for value in points[column]] for key, column in columns.items()}


def _number(value: float) -> float | int | None:
    """Six digits: less than the width of a line, and half the size of the page."""
    if not isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
