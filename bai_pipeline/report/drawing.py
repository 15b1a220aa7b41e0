"""Pictures as Matplotlib figures, 1200 pixels wide, readable in print."""

from math import ceil

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bai_pipeline.report.pictures import Panel, Picture

WIDTH_PX, DPI = 1200, 150
_LEGEND_ROWS = 20
_MANY = 400
"""Points beyond which a line is thin."""


def figure(picture: Picture) -> Figure:
    """Panels side by side with one legend."""
    single = len(picture.panels) == 1
    fig = Figure(figsize=(WIDTH_PX / DPI, 4.3 if single else 4.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(1, len(picture.panels), squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for ax, panel in zip(axes, picture.panels, strict=True):
        handles |= _draw(ax, panel, ticks=9 // len(picture.panels))
    handles = {label: handles[label] for label in picture.labels}
    legend = fig.legend(
        list(handles.values()),
        list(handles),
        loc="outside right upper" if single else "outside lower center",
        ncols=ceil(len(handles) / _LEGEND_ROWS) if single else min(len(handles), 7),
        frameon=False,
        fontsize=8,
        title=_legend_title(picture, narrow=single),
        title_fontsize=7,
    )
    legend.get_title().set_color("#555555")
    return fig


def _draw(ax: Axes, panel: Panel, ticks: int) -> dict[str, Line2D]:
    """Draw the lines and return them by name."""
    lines: dict[str, Line2D] = {}
    for line in panel.lines:
        look = line.look
        for piece in line.pieces(panel.x, panel.step):
            (lines[line.label],) = ax.plot(
                piece[panel.x],
                piece["mean"],
                color=look.light,
                linestyle=look.dash,
                linewidth=1.6 if len(piece) <= _MANY else 0.8,
                marker=look.marker,
                markersize=4,
                markevery=max(1, len(piece) // 8),
            )
            ax.fill_between(piece[panel.x], piece["low"], piece["high"], color=look.light, alpha=0.15, linewidth=0)
    if panel.baseline is not None:
        ax.axhline(panel.baseline, color="#888888", linewidth=0.8, zorder=0)
    ax.set_title(panel.title, fontsize=9, loc="left")
    ax.set_xlabel(panel.x_label, fontsize=8)
    ax.set_ylabel(panel.y_label, fontsize=8)
    ax.set_ylim(*panel.bounds)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True))
    ax.tick_params(labelsize=8)
    ax.margins(x=0.02)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return lines


def _legend_title(picture: Picture, *, narrow: bool) -> str | None:
    """What the lines are, and what the band is where there is one."""
    parts = [picture.legend] if picture.legend else []
    if any(bool(line.points["low"].notna().any()) for panel in picture.panels for line in panel.lines):
        parts.append("band: ± 1 standard" + ("\n" if narrow else " ") + "error")
    return ("\n" if narrow else "; ").join(parts) or None
