"""The paper's Figures 2, 6 and 7: score by length of response over steps."""

from collections.abc import Sequence

import pandas as pd

from bai_pipeline.report.bucket_curves import (
    BUCKETS,
    SMALLEST,
    SMALLEST_SHARE,
    bucket_curves,
    drawn_buckets,
    window_steps,
)
from bai_pipeline.report.colours import bucket_look, display_name
from bai_pipeline.report.curves import inits_named
from bai_pipeline.report.pictures import STEP, Absent, Bounds, Line, Panel, Picture

RATIOS = (0.1, 0.5, 0.9)
"""Of Figure 7."""


def bucket_pictures(responses: pd.DataFrame, width: int, headline: str, score_label: str) -> list[Picture | Absent]:
    """Figures 2, 6 and 7: same axes, same buckets, same colours."""
    ratios = [f"alpha {ratio}" for ratio in RATIOS]
    wanted = {
        "figure_2_score_by_length_paradigm_3": ("Figure 2. Score by response length, Paradigm 3", ["paradigm_3"]),
        "figure_6_score_by_length_bai": (f"Figure 6. Score by response length, BAI ({headline})", [headline]),
        "figure_7_score_by_length_ratios": ("Figure 7. Score by response length, alpha 0.1, 0.5 and 0.9", ratios),
    }
    scored = not responses.empty and {"init", "seed", "step", "length", "score"} <= set(responses.columns)
    if not scored or bool(responses["score"].isna().all()):
        reason = "No scores of single responses were recorded."
        return [Absent(name, title, reason) for name, (title, _) in wanted.items()]
    names = inits_named(responses["init"].unique(), ["paradigm_3", headline, *ratios])
    chosen = responses[responses["init"].isin(names) & responses["score"].notna()]
    if chosen.empty:
        return [Absent(name, title, f"No run of {_all(inits)}.") for name, (title, inits) in wanted.items()]
    window = window_steps(chosen, width)
    curves = bucket_curves(chosen, width, window)
    buckets = drawn_buckets(curves)
    curves["drawn"] &= curves["bucket"].isin(buckets)
    seen = curves.loc[curves["drawn"], ["mean", "low", "high"]]
    room = 0.04 * float(seen.max().max() - seen.min().min())
    bounds = (float(seen.min().min()) - room, float(seen.max().max()) + room)
    pictures: list[Picture | Absent] = []
    for name, (title, inits) in wanted.items():
        found = inits_named(curves.loc[curves["drawn"], "init"], inits)
        if not found:
            few = f"has no run with {SMALLEST} responses of one length bucket in a window of {window} steps"
            pictures.append(Absent(name, title, f"{_all(inits)} {few}."))
            continue
        panels = [
            _panel(init, curves[curves["init"] == init], buckets, width, bounds, window, score_label) for init in found
        ]
        absent = [display_name(init) for init in inits if not inits_named(found, [init])]
        missing = [f"Not run, or with too few responses: {', '.join(absent)}."] if absent else []
        caption = " ".join([_caption(curves, found, window), *missing])
        undrawn = curves[curves["init"].isin(found) & ~curves["drawn"]].drop(columns="drawn")
        pictures.append(Picture(name, title, caption, tuple(panels), "response length (tokens)", undrawn))
    return pictures


def _panel(
    init: str, curves: pd.DataFrame, buckets: Sequence[int], width: int, bounds: Bounds, window: int, score_label: str
) -> Panel:
    drawn = curves[curves["drawn"]].drop(columns="drawn")
    lines = [
        Line(f"{bucket * width}–{(bucket + 1) * width - 1}", bucket_look(bucket, max(buckets)), points)
        for bucket in buckets
        if not (points := drawn[drawn["bucket"] == bucket]).empty
    ]
    return Panel(f"Mean score, {display_name(init)}", "step", STEP, score_label, tuple(lines), bounds, step=window)


def _caption(curves: pd.DataFrame, inits: Sequence[str], window: int) -> str:
    shown = curves[curves["init"].isin(inits)]
    single = shown.loc[shown["drawn"], "seeds"].max() == 1
    what = "one seed: ± 1 standard error over the bucket's responses" if single else "± 1 standard error over seeds"
    steps = "a step" if window == 1 else f"{window} steps, drawn at the first of them"
    hidden = int((~shown["drawn"]).sum())
    rest = f" {hidden} of {len(shown)} points are not drawn, but are in the CSV." if hidden else ""
    return (
        f"Point: the mean over the responses of {steps}, at least {SMALLEST}. Buckets: those with {SMALLEST_SHARE:.0%} "
        f"of the responses; of more than {BUCKETS}, {BUCKETS} evenly spaced ones. Band: {what}. Figures 2, 6 and 7 "
        f"have the same axes and colors.{rest}"
    )


def _all(inits: Sequence[str]) -> str:
    return ", ".join(map(display_name, inits))
