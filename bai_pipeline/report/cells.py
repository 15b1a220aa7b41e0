"""DataFrames as tables of the page."""

import re
from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from bai_pipeline.evals.comparisons import AVERAGE
from bai_pipeline.evals.tables import measured_benchmarks
from bai_pipeline.evals.writing import best_labels
from bai_pipeline.report.blocks import Cell, Column, Table
from bai_pipeline.report.colours import display_name

NOTHING = "–"
PROSE = frozenset({"note", "reason", "evidence"})


def table(frame: pd.DataFrame, caption: str, formats: Mapping[str, str] | None = None) -> Table:
    """Any frame; numbers sort as numbers.

    Args:
        formats: column → format specification, such as ".2f"; others are printed with up to four digits.
    """
    formats = formats or {}
    names = [str(name) for name in frame.columns]
    numeric = {str(name): _numeric(frame[name]) for name in frame.columns}
    columns = [Column(name.replace("_", " "), numeric[name] and n > 0, name in PROSE) for n, name in enumerate(names)]
    rows = [
        [cell(value, formats.get(name)) for name, value in zip(names, line, strict=True)]
        for line in frame.itertuples(index=False)
    ]
    return Table(caption, columns, rows)


def cell(value: Any, form: str | None = None) -> Cell:
    """One value; what is null is a dash."""
    if pd.isna(value):
        return Cell(NOTHING)
    if isinstance(value, str):
        return Cell(value, float(value) if _is_number(value) else value)
    if isinstance(value, bool) or str(value) in ("True", "False"):
        return Cell("yes" if value else "no", "yes" if value else "no")
    number = float(value)
    if form is None:
        form = ",.0f" if number.is_integer() else ".4g"
    return Cell(format(number, form), number)


def with_error(value: float, stderr: float, digits: int, *, bold: bool = False) -> Cell:
    """`value ± stderr`, which sorts by its value."""
    if isnan(value):
        return Cell(NOTHING)
    error = "" if isnan(stderr) else f" ± {stderr:.{digits}f}"
    return Cell(f"{value:.{digits}f}{error}", value, bold)


def score_table(frame: pd.DataFrame, caption: str, comparisons: pd.DataFrame | None) -> Table:
    """A table made by `paradigm_table` or `ratio_table`; the best row of a column is bold, see `comparisons_note`."""
    label = str(frame.columns[0])
    names = [*measured_benchmarks(frame), AVERAGE]
    best = {} if comparisons is None else best_labels(frame, comparisons)
    rows = []
    for _, row in frame.iterrows():
        scores = [
            with_error(row[name], row[f"{name} stderr"], 3, bold=best.get(name) == row[label])
            if not isnan(row[name])
            else Cell("not run", kind="unknown")
            for name in names
        ]
        rows.append([cell(str(row[label])), cell(row["seeds"]), *scores, cell(row["note"])])
    columns = [
        Column(label),
        Column("seeds", True),
        *(Column(name, True) for name in names),
        Column("note", prose=True),
    ]
    return Table(caption, columns, rows)


def summary_table(summary: pd.DataFrame, caption: str) -> Table:
    """Where the runs of each init start and end, made by `summarize`."""
    judged = bool(summary["accuracy_change"].notna().any())
    shown = [
        ("length", "length (tokens)", "length_ratio", "length ratio", 1),
        ("score", "score", "score_change", "", 2),
    ]
    shown += [("accuracy", "accuracy", "accuracy_change", "", 2)] if judged else []
    columns = [Column("init"), Column("seeds", True), Column("steps", True)]
    for _, name, change, title, _ in shown:
        columns += [Column(name, True), Column(title or change.replace("_", " "), True)]
    rows = []
    for number, row in enumerate(summary.to_dict("records")):
        cells = [Cell(display_name(str(row["init"])), float(number)), cell(row["seeds"]), cell(row["steps"])]
        for name, _, change, _, digits in shown:
            start, end = row[f"{name}_start"], row[f"{name}_end"]
            cells += [
                Cell(NOTHING) if isnan(end) else Cell(f"{start:.{digits}f} → {end:.{digits}f}", end),
                with_error(row[change], row[f"{change}_stderr"], 2),
            ]
        rows.append(cells)
    return Table(caption, columns, rows)


def _numeric(values: "pd.Series[Any]") -> bool:
    if pd.api.types.is_bool_dtype(values):
        return False
    return pd.api.types.is_numeric_dtype(values) or all(_is_number(str(value)) for value in values.dropna())


def _is_number(text: str) -> bool:
    """Of alphas and of values that the paper printed: they sort as numbers."""
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", text))
