"""The figures of the training dynamics, under the paper's numbers where it has them.

The paper's PDF was not at hand: which of its panels 3a, 3b and 3c shows which paradigm is this project's choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

import pandas as pd

from bai_pipeline.errors import DataError
from bai_pipeline.report.bucket_pictures import bucket_pictures
from bai_pipeline.report.colours import display_name, look
from bai_pipeline.report.curves import check_runs, curve, inits_named, relative_to_start, windowed
from bai_pipeline.report.pictures import STEP, Absent, Bounds, Line, Panel, Picture
from bai_pipeline.report.value_errors import value_error_panels

POINTS = 160
"""Of a line, at most: longer runs are drawn in windows of several steps, or their noise hides every other line."""
EVERY_STEP = frozenset({"kl_train_sample"})
"""Metrics of which every step is drawn: a mean would hide their spikes."""
LENGTH = {"length_mean": Panel("Mean response length", "step", STEP, "tokens", (), (0, None))}
KL = {"kl_train_sample": Panel("KL(training policy ‖ sampling policy)", "step", STEP, "nats per token", (), (0, None))}
ACCURACY = {"accuracy": Panel("True accuracy of the same responses", "step", STEP, "share of responses", (), (0, 1))}
_OURS = "The paper's PDF was not at hand: which of its panels a, b and c shows what is this project's assignment."


def dynamics_pictures(
    runs: pd.DataFrame,
    responses: pd.DataFrame,
    prefixes: pd.DataFrame,
    *,
    bucket_width: int,
    headline_alpha: str,
    score_label: str = "score",
) -> list[Picture | Absent]:
    """All figures, in order; one whose numbers are not there says why.

    Args:
        runs, responses, prefixes: metrics tables with a column `init`, see `curves`; each may be empty.
        bucket_width: tokens of a bucket of response lengths.
        headline_alpha: the ratio that stands for BAI, such as "0.5".
        score_label: of the axes that show scores, with their unit where it is known.

    Raises:
        DataError: a run has a step twice, or an init is no such name.
    """
    headline = f"alpha {headline_alpha}"
    buckets = bucket_pictures(responses, bucket_width, headline, score_label)
    scores = {"score_mean": Panel("Score that PPO maximizes", "step", STEP, score_label, ())} | ACCURACY
    return [
        buckets[0],
        *_length_panels(runs, headline),
        _over_steps(runs, "figure_4_length_all_ratios", "Figure 4. Mean response length, all ratios", LENGTH),
        _over_steps(runs, "figure_5_kl_train_sample", "Figure 5. KL between training and sampling policy", KL),
        *buckets[1:],
        _relative(runs),
        _over_steps(runs, "score_and_accuracy", "The score that PPO maximizes, and true accuracy", scores),
        _value_errors(prefixes),
    ]


def _over_steps(runs: pd.DataFrame, name: str, title: str, wanted: Mapping[str, Panel]) -> Picture | Absent:
    """Each init's mean over seeds of each metric; a panel without numbers is left out, and said to be."""
    panels = [_with_lines(p, _curve(runs, metric)) for metric, p in wanted.items() if _recorded(runs, metric)]
    left_out = [panel.title for metric, panel in wanted.items() if not _recorded(runs, metric)]
    if not panels:
        return _absent(runs, name, title, " and ".join(left_out))
    missing = f" {' and '.join(left_out)}: not recorded." if left_out else ""
    point = "" if set(wanted) <= EVERY_STEP else _point(runs)
    return Picture(name, title, point + _band(panels) + missing, tuple(panels))


def _length_panels(runs: pd.DataFrame, headline: str) -> list[Picture | Absent]:
    """Figures 3a, 3b and 3c, on the same axes."""
    wanted = {
        "figure_3a_length_paradigm_1": ("Figure 3a. Mean response length, Paradigm 1", "paradigm_1"),
        "figure_3b_length_paradigm_3": ("Figure 3b. Mean response length, Paradigm 3", "paradigm_3"),
        "figure_3c_length_bai": (f"Figure 3c. Mean response length, BAI ({headline})", headline),
    }
    if not _recorded(runs, "length_mean"):
        return [_absent(runs, name, title, "the mean length") for name, (title, _) in wanted.items()]
    table = _curve(runs, "length_mean")
    shown = table[table["init"].isin(inits_named(table["init"], [init for _, init in wanted.values()]))]
    top = shown[["mean", "high"]].max().max() * 1.05
    pictures: list[Picture | Absent] = []
    for name, (title, init) in wanted.items():
        found = inits_named(table["init"], [init])
        if not found:
            pictures.append(Absent(name, title, f"{display_name(init)} has no run."))
            continue
        panel = _with_lines(LENGTH["length_mean"], table[table["init"].isin(found)], (0, float(top)))
        caption = f"{_point(runs)}{_band([panel])} The vertical axes of 3a, 3b and 3c are the same. {_OURS}"
        pictures.append(Picture(name, title, caption, (panel,)))
    return pictures


def _relative(runs: pd.DataFrame) -> Picture | Absent:
    name, title = "length_relative", "Mean response length over the run's own first step"
    if not _recorded(runs, "length_mean"):
        return _absent(runs, name, title, "the mean length")
    try:
        table = _curve(relative_to_start(runs, "length_mean"), "length_mean")
    except DataError as error:
        return Absent(name, title, f"Not drawn: {error}.")
    panel = Panel("Length over the run's own start", "step", STEP, "ratio", (), (0, None), baseline=1.0)
    panel = _with_lines(panel, table)
    return Picture(name, title, f"Each run is divided by its own first step. {_point(runs)}{_band([panel])}", (panel,))


def _value_errors(prefixes: pd.DataFrame) -> Picture | Absent:
    name, title = "value_error_by_prefix", "The critic's error by prefix length"
    needed = {"init", "seed", "step", "prefix", "tokens", "value_error"}
    if prefixes.empty or not needed <= set(prefixes.columns):
        return Absent(name, title, "No value errors by prefix length were recorded.")
    panels = value_error_panels(prefixes)
    if not panels:
        return Absent(name, title, "No prefix length has enough tokens.")
    caption = (
        "Mean of V − R over the tokens after prefixes of a length: below 0 the critic expects too little of them. "
    )
    return Picture(name, title, caption + _band(panels), tuple(panels))


def _curve(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    return curve(runs if metric in EVERY_STEP else windowed(runs, metric, _window(runs)), metric)


def _window(runs: pd.DataFrame) -> int:
    """Steps of a point."""
    return ceil((int(runs["step"].max()) - int(runs["step"].min()) + 1) / POINTS)


def _point(runs: pd.DataFrame) -> str:
    window = _window(runs)
    return "" if window == 1 else f"Point: the mean of {window} steps, drawn at the first of them. "


def _with_lines(panel: Panel, table: pd.DataFrame, bounds: Bounds | None = None) -> Panel:
    lines = tuple(
        Line(display_name(str(init)), look(str(init)), points) for init, points in table.groupby("init", sort=False)
    )
    return replace(panel, lines=lines, bounds=panel.bounds if bounds is None else bounds)


def _band(panels: Sequence[Panel]) -> str:
    counts = {int(count) for panel in panels for line in panel.lines for count in line.points["seeds"].unique()}
    if counts == {1}:
        return "One seed: no band."
    return "Mean over seeds; band: ± 1 standard error over seeds" + (
        ", none where there is one." if 1 in counts else "."
    )


def _recorded(runs: pd.DataFrame, metric: str) -> bool:
    if runs.empty or metric not in runs.columns:
        return False
    check_runs(runs, [metric])
    return bool(runs[metric].notna().any())


def _absent(runs: pd.DataFrame, name: str, title: str, what: str) -> Absent:
    return Absent(name, title, "No run has metrics." if runs.empty else f"Not recorded: {what}.")
