"""The figures of the training dynamics as files: a PNG each, and beside it a CSV with the plotted numbers."""

from pathlib import Path

import pandas as pd

from bai_pipeline.report.drawing import figure
from bai_pipeline.report.dynamics_pictures import dynamics_pictures
from bai_pipeline.report.pictures import Picture


def dynamics_figures(
    runs: pd.DataFrame,
    responses: pd.DataFrame,
    prefixes: pd.DataFrame,
    out: Path,
    *,
    bucket_width: int,
    headline_alpha: str,
    score_label: str = "score",
) -> list[Path]:
    """Write every figure whose numbers are there.

    Args:
        runs, responses, prefixes, bucket_width, headline_alpha, score_label: see `dynamics_pictures`.
        out: existing directory.

    Returns:
        The PNG files; none where there are no runs.

    Raises:
        DataError: a run has a step twice, or an init is no such name.
    """
    pictures = dynamics_pictures(
        runs,
        responses,
        prefixes,
        bucket_width=bucket_width,
        headline_alpha=headline_alpha,
        score_label=score_label,
    )
    return [write_picture(picture, out) for picture in pictures if isinstance(picture, Picture)]


def write_picture(picture: Picture, out: Path) -> Path:
    """Write `<name>.png` (1200 pixels wide) and `<name>.csv` into an existing directory; returns the PNG."""
    png = out / f"{picture.name}.png"
    figure(picture).savefig(png)
    picture.numbers().to_csv(png.with_suffix(".csv"), index=False)
    return png
