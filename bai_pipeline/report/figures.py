"""Figures of the training dynamics: pure DataFrame → Figure, and a CSV with the plotted numbers beside each PNG.

Colours: an alpha has the same colour and marker in every figure (a sequential map over [0, 1], dark for the merged SFT,
light for the base); Paradigm 1 is black and dash-dotted, Paradigm 3 red and dashed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bai_pipeline.report.curves import alpha_of, check_runs, curve, relative_to_start

WIDTH_PX, DPI = 1200, 150
PARADIGM_COLOURS = {"paradigm_1": "#000000", "paradigm_3": "#d62728"}
PARADIGM_STYLES = {"paradigm_1": "-.", "paradigm_3": "--"}
OTHER_COLOUR = "#8c8c8c"
ALPHA_MARKERS = ("o", "s", "^", "D", "v")
"""Neighbouring alphas have neighbouring colours: the marker tells them apart."""


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    metric: str
    title: str
    unit: str
    """Label of the vertical axis, unit included."""
    relative: bool = False
    """Divide each run by its own first step."""
    bounds: tuple[float | None, float | None] = (None, None)
    """Limits of the vertical axis."""


FIGURES: dict[str, tuple[Panel, ...]] = {
    "length": (Panel("length_mean", "Mean response length", "tokens", bounds=(0, None)),),
    "length_relative": (
        Panel(
            "length_mean",
            "Mean response length over the run's own first step",
            "ratio",
            relative=True,
            bounds=(0, None),
        ),
    ),
    "score_and_accuracy": (
        Panel("score_mean", "Score that PPO maximizes", "score (of a reward model: standard deviations)"),
        Panel("accuracy", "True accuracy of the same responses", "share of responses that are correct", bounds=(0, 1)),
    ),
    "kl_train_sample": (
        Panel("kl_train_sample", "KL(training policy ‖ sampling policy)", "nats per token", bounds=(0, None)),
    ),
}


def colour(init: str) -> str:
    """The colour of an init in every figure."""
    alpha = alpha_of(init)
    if alpha is None:
        return PARADIGM_COLOURS.get(init, OTHER_COLOUR)
    return to_hex(colormaps["viridis"](0.92 * alpha))  # the last yellow is hard to see on white


def marker(init: str) -> str:
    """The marker of an init in every figure, "" for one that is no blend."""
    alpha = alpha_of(init)
    return "" if alpha is None else ALPHA_MARKERS[round(10 * alpha) % len(ALPHA_MARKERS)]


def display_name(init: str) -> str:
    """How an init is called in a legend."""
    return init if alpha_of(init) is not None else init.replace("_", " ").capitalize()


def panel_curve(runs: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    """What `panel` plots: init, step, seeds, mean, low, high."""
    return curve(relative_to_start(runs, panel.metric) if panel.relative else runs, panel.metric)


def figure(panels: Sequence[Panel], curves: Sequence[pd.DataFrame]) -> Figure:
    """Panels side by side with one legend; each table as `panel_curve` makes it."""
    single = len(panels) == 1
    fig = Figure(figsize=(WIDTH_PX / DPI, 4.3 if single else 4.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for ax, panel, table in zip(axes, panels, curves, strict=True):
        handles |= _draw(ax, panel, table)
    banded = any(bool((table["seeds"] > 1).any()) for table in curves)
    legend = fig.legend(
        list(handles.values()),
        [display_name(init) for init in handles],
        loc="outside right upper" if single else "outside lower center",
        ncols=1 if single else min(len(handles), 7),
        frameon=False,
        fontsize=8,
        title=_band_title(single) if banded else None,
        title_fontsize=7,
    )
    legend.get_title().set_color("#555555")
    return fig


def dynamics_figures(runs: pd.DataFrame, out: Path) -> list[Path]:
    """Write every figure of `FIGURES` as PNG (1200 pixels wide) with a CSV of the plotted numbers.

    Args:
        runs: `steps` tables with an `init` column, see `curves`; `accuracy` may be absent or empty, its panel is then
            left out.
        out: existing directory.

    Returns:
        The PNG files; none where there are no runs.

    Raises:
        DataError: another metric is absent, or a line is there twice.
    """
    if runs.empty:
        return []
    written = []
    for name, wanted in FIGURES.items():
        panels = [p for p in wanted if p.metric != "accuracy" or _recorded(runs, p.metric)]
        check_runs(runs, [p.metric for p in panels])
        curves = [panel_curve(runs, panel) for panel in panels]
        png = out / f"{name}.png"
        figure(panels, curves).savefig(png)
        numbers = [t.assign(panel=p.metric, unit=p.unit) for p, t in zip(panels, curves, strict=True)]
        pd.concat(numbers).to_csv(png.with_suffix(".csv"), index=False)
        written.append(png)
    return written


def _draw(ax: Axes, panel: Panel, table: pd.DataFrame) -> dict[str, Line2D]:
    """Draw the curves and return the line of each init."""
    lines: dict[str, Line2D] = {}
    for name, group in table.groupby("init", sort=False):
        init = str(name)
        (lines[init],) = ax.plot(
            group["step"],
            group["mean"],
            color=colour(init),
            linestyle=PARADIGM_STYLES.get(init, "-"),
            linewidth=1.6,
            marker=marker(init),
            markersize=4,
            markevery=max(1, len(group) // 8),
        )
        ax.fill_between(group["step"], group["low"], group["high"], color=colour(init), alpha=0.15, linewidth=0)
    if panel.relative:
        ax.axhline(1.0, color="#888888", linewidth=0.8, zorder=0)
    ax.set_title(panel.title, fontsize=9, loc="left")
    ax.set_xlabel("PPO step (rollout batches)", fontsize=8)
    ax.set_ylabel(panel.unit, fontsize=8)
    ax.set_ylim(*panel.bounds)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=8)
    ax.margins(x=0.02)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return lines


def _band_title(narrow: bool) -> str:
    return "band: ± 1 standard" + ("\n" if narrow else " ") + "error over seeds"


def _recorded(runs: pd.DataFrame, metric: str) -> bool:
    return metric in runs.columns and bool(runs[metric].notna().any())
