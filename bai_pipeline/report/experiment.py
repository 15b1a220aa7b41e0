"""The small-scale experiment as files: `README.md`, `claims.csv`, and a directory for each setting."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from bai_pipeline.report.blocks import Block, Figure, Hole, Text
from bai_pipeline.report.chain_tables import chain_curves
from bai_pipeline.report.contrasts import Setting
from bai_pipeline.report.drawing import figure
from bai_pipeline.report.dynamics_pictures import dynamics_pictures
from bai_pipeline.report.experiment_page import experiment_page
from bai_pipeline.report.judgements import judge, table_of
from bai_pipeline.report.markdown import page_markdown
from bai_pipeline.report.pictures import Absent, Picture
from bai_pipeline.report.run_numbers import run_numbers
from bai_pipeline.report.setting_results import SettingResults

__all__ = ["SettingResults", "write_experiment"]

PICTURE_BYTES = 360_000
"""Of a setting's figures with their numbers: so six settings and their tables stay below 3 MB, for git."""
KEPT = (
    "figure_4_length_all_ratios",
    "length_relative",
    "score_and_accuracy",
    "figure_2_score_by_length_paradigm_3",
    "figure_5_kl_train_sample",
    "figure_6_score_by_length_bai",
    "value_error_by_prefix",
    "figure_7_score_by_length_ratios",
)
"""Figures of a study's page that are kept here, the first before others while there is room."""
SCORE_COLUMNS = ("chain", "model", "seed", "benchmark", "score", "stderr", "n")
_COLORS = 128
_DIGITS = "%.4g"


def write_experiment(
    out: Path, settings: Mapping[str, SettingResults], *, picture_bytes: int = PICTURE_BYTES
) -> list[Path]:
    """Write what the experiment shows; what an earlier call wrote for the same settings is replaced.

    Args:
        out: existing directory.
        settings: by name, in the order of the page.
        picture_bytes: at most, of a setting's figures and their numbers; which are left out is said.

    Returns:
        The files written, the page first.

    Raises:
        DataError: a table holds a line twice or lacks a column, or an init is no such name; nothing was written.
    """
    numbers = {name: Setting(name, results.headline, run_numbers(results)) for name, results in settings.items()}
    judgements = judge(numbers)
    pictures = {name: _pictures(results) for name, results in settings.items()}
    files: list[Path] = []
    figures: dict[str, list[Block]] = {}
    for name, results in settings.items():
        directory = out / name
        directory.mkdir(exist_ok=True)
        for old in (*directory.glob("*.png"), *directory.glob("*.csv"), *directory.glob("missing.txt")):
            old.unlink()
        files += _write_tables(directory, results, numbers[name].numbers)
        figures[name] = _write_pictures(directory, pictures[name], picture_bytes)
        files += sorted(path for path in directory.iterdir() if path not in files)
    table_of(judgements).to_csv(out / "claims.csv", index=False, float_format=_DIGITS)
    page = out / "README.md"
    page.write_text(page_markdown(experiment_page(settings, numbers, judgements, figures), out), encoding="utf-8")
    return [page, out / "claims.csv", *files]


def _write_tables(directory: Path, results: SettingResults, numbers: pd.DataFrame) -> list[Path]:
    verdicts, scores = results.verdicts, results.scores
    tables = {
        "curves": chain_curves(results),
        "runs": numbers[[c for c in numbers.columns if not str(c).startswith("verdict ")]],
        "verdicts": verdicts[[c for c in verdicts.columns if c not in ("reason", "evidence")]],
        "scores": scores[[c for c in scores.columns if c in SCORE_COLUMNS]],
    }
    for name, table in tables.items():
        first = [c for c in ("chain", "init", "model", "seed", "step", "detector", "benchmark") if c in table.columns]
        table[[*first, *(c for c in table.columns if c not in first)]].to_csv(
            directory / f"{name}.csv", index=False, float_format=_DIGITS
        )
    files = [directory / f"{name}.csv" for name in tables]
    if results.missing:
        files.append(directory / "missing.txt")
        files[-1].write_text("\n".join(results.missing) + "\n", encoding="utf-8")
    return files


def _pictures(results: SettingResults) -> list[Picture | Absent]:
    """The figures of a study's page, runs pooled over chains; those of KEPT first."""
    found = dynamics_pictures(
        results.pooled(results.runs),
        results.pooled(results.responses),
        results.pooled(results.prefixes),
        bucket_width=results.bucket_width,
        headline_alpha=results.headline_alpha,
        score_label=results.score_label,
    )
    return sorted(found, key=lambda picture: KEPT.index(picture.name) if picture.name in KEPT else len(KEPT))


def _write_pictures(directory: Path, pictures: list[Picture | Absent], room: int) -> list[Block]:
    """Figures with their numbers while there is room; then what was left out, and what could not be drawn."""
    blocks: list[Block] = []
    left_out = []
    for picture in pictures:
        if isinstance(picture, Absent):
            blocks.append(Hole(picture.title, picture.reason))
            continue
        if picture.name not in KEPT or room <= 0:
            left_out.append(picture.title)
            continue
        png = directory / f"{picture.name}.png"
        numbers = png.with_suffix(".csv")
        figure(picture).savefig(png)
        with Image.open(png) as image:
            _few_colors(image).save(png, optimize=True)
        picture.numbers().to_csv(numbers, index=False, float_format=_DIGITS)
        room -= (size := png.stat().st_size + numbers.stat().st_size)
        if room < 0:
            room += size
            png.unlink()
            numbers.unlink()
            left_out.append(picture.title)
        else:
            blocks.append(Figure(picture, png))
    if left_out:
        blocks.append(Text(f"Left out to keep this directory small: {'; '.join(left_out)}."))
    return blocks


def _few_colors(image: Image.Image) -> Image.Image:
    """A third of the bytes. Maximum coverage keeps colors that few pixels have; median cut mixes such a line away."""
    return image.convert("RGB").quantize(_COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
