"""What a figure shows, apart from how it is drawn: `drawing` makes a PNG of it, `interactive` the data of the page."""

from dataclasses import dataclass

import pandas as pd

from bai_pipeline.report.colours import Look

STEP = "PPO step (rollout batches)"
Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Line:
    """A line with its band."""

    label: str
    look: Look
    points: pd.DataFrame
    """The panel's x, mean, low, high (NaN where there is no band), seeds, and whatever else the CSV is to hold."""

    def pieces(self, x: str, step: float | None) -> list[pd.DataFrame]:
        """The points, cut where neighbours along `x` are more than `step` apart."""
        if step is None:
            return [self.points]
        number = (self.points[x].diff() > step).cumsum()
        return [piece for _, piece in self.points.groupby(number)]


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    x: str
    """Column of the points that is drawn along the horizontal axis."""
    x_label: str
    y_label: str
    """Unit included."""
    lines: tuple[Line, ...]
    bounds: Bounds = (None, None)
    """Limits of the vertical axis."""
    baseline: float | None = None
    """A thin horizontal line at this value."""
    step: float | None = None
    """Distance along the horizontal axis beyond which neighbouring points are not joined; None: all are."""


@dataclass(frozen=True)
class Picture:
    """A figure: panels side by side, of which lines with the same label belong together."""

    name: str
    """Of its files, without ending."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: str = ""
    """What the lines are, above their names."""
    undrawn: pd.DataFrame | None = None
    """Numbers of the CSV that are not drawn."""

    @property
    def labels(self) -> dict[str, Look]:
        """The lines by name, in order of first appearance."""
        return {line.label: line.look for panel in self.panels for line in panel.lines}

    @property
    def alt(self) -> str:
        """The figure for those who cannot see it: what is drawn, and where each line begins and ends."""
        panels = (
            f"{panel.title} ({panel.y_label}) over {panel.x_label}: {'; '.join(map(_course, panel.lines))}."
            for panel in self.panels
        )
        return f"Line chart. {' '.join(panels)}"

    def numbers(self) -> pd.DataFrame:
        """All that is drawn, and what is not."""
        drawn = [
            line.points.assign(panel=panel.title, unit=panel.y_label) for panel in self.panels for line in panel.lines
        ]
        if self.undrawn is None:
            return pd.concat(drawn, ignore_index=True)
        drawn = [table.assign(drawn=True) for table in drawn]
        rest = [self.undrawn.assign(drawn=False)] if len(self.undrawn) else []
        return pd.concat([*drawn, *rest], ignore_index=True)


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be drawn, and why."""

    name: str
    title: str
    reason: str


def _course(line: Line) -> str:
    values = line.points["mean"]
    return f"{line.label} from {values.iloc[0]:.3g} to {values.iloc[-1]:.3g}"
