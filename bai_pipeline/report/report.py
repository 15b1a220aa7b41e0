"""The report of one study as a static Markdown page, with its tables, figures and their numbers beside it."""

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from bai_pipeline import paper
from bai_pipeline.evals.tables import paper_paradigm_table, paper_ratio_table
from bai_pipeline.evals.writing import (
    STDERR_NOTE,
    comparisons_note,
    paper_block,
    plain_markdown,
    to_markdown,
    write_table,
)
from bai_pipeline.report.figures import FIGURES, display_name, dynamics_figures
from bai_pipeline.report.statements import hockey_stick, over_optimisation, seeds_and_errors, short_starts
from bai_pipeline.report.summary import END_SHARE, summarize


def write_report(
    out: Path,
    *,
    study: str,
    paradigms: pd.DataFrame,
    ratios: pd.DataFrame,
    runs: pd.DataFrame,
    comparisons: Mapping[str, pd.DataFrame] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write report.md, tables/ and figures/.

    Args:
        out: existing directory.
        study: name of the study, for the title.
        paradigms, ratios: made by `paradigm_table` and `ratio_table`.
        runs: `steps` tables with an `init` column, see `curves`; may be empty, the dynamics are then a hole.
        comparisons: of the rows of "paradigm_table" and "ratio_table", made by `paired_comparisons`; without them no
            row is marked as best.
        notes: remarks of the study, printed as they are (what was not run, which chains share seeds).

    Returns:
        The path of report.md.
    """
    tables, figures = out / "tables", out / "figures"
    tables.mkdir()
    figures.mkdir()
    paper_paradigms, paper_ratios = paper_paradigm_table(), paper_ratio_table()
    pairs = {name: (comparisons or {}).get(name) for name in ("paradigm_table", "ratio_table")}
    write_table(
        paradigms, tables, "paradigm_table", (paper_paradigms, paper.TABLE_1), comparisons=pairs["paradigm_table"]
    )
    write_table(ratios, tables, "ratio_table", (paper_ratios, paper.TABLE_2), comparisons=pairs["ratio_table"])

    blocks = [f"# Report of the study {study}"]
    blocks += [f"- {note}" for note in notes]
    blocks += ["## Scores by paradigm", *_compared(paradigms, pairs["paradigm_table"]), "## Scores by ratio"]
    blocks += ["alpha is the weight of the base model; 0 is the merged SFT itself."]
    blocks += [*_compared(ratios, pairs["ratio_table"]), STDERR_NOTE]
    blocks += ["## Training dynamics", *_dynamics(runs, tables, figures)]
    blocks += ["## The paper's values", paper_block(paper_paradigms, paper.TABLE_1)]
    blocks += [paper_block(paper_ratios, paper.TABLE_2)]
    page = out / "report.md"
    page.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return page


def _compared(table: pd.DataFrame, comparisons: pd.DataFrame | None) -> list[str]:
    """A table, and what may be said of its rows against each other."""
    return [to_markdown(table, comparisons), *([] if comparisons is None else [comparisons_note(comparisons)])]


def _dynamics(runs: pd.DataFrame, tables: Path, figures: Path) -> list[str]:
    if runs.empty:
        return ["No run of this study has metrics: no dynamics are shown."]
    summary = summarize(runs)
    summary.to_csv(tables / "dynamics_summary.csv", index=False)
    written = dynamics_figures(runs, figures)
    pictures = [
        f"![{'; '.join(panel.title for panel in FIGURES[png.stem])}](figures/{png.name})\n\n"
        f"[Numbers](figures/{png.stem}.csv)"
        for png in written
    ]
    definition = (
        f"Start: the first step, before any update. End: mean of the last {100 // END_SHARE}% of the steps. "
        "All numbers: [dynamics_summary.csv](tables/dynamics_summary.csv)."
    )
    return [
        *pictures,
        plain_markdown(_summary_table(summary)),
        definition,
        "## What is confounded",
        f"- **Length at the start.** {short_starts(summary)}",
        f"- **Over-optimization.** {over_optimisation(summary)}",
        f"- **Reward hockey stick.** {hockey_stick(summary)}",
        f"- **Seeds.** {seeds_and_errors(summary)}",
    ]


def _summary_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary with start, end and change in words."""
    lines = [
        {
            "init": display_name(str(row["init"])),
            "seeds": row["seeds"],
            "steps": row["steps"],
            "length (tokens)": f"{row['length_start']:.1f} → {row['length_end']:.1f}",
            "length ratio": _with_error(row, "length_ratio"),
            "score": f"{row['score_start']:.2f} → {row['score_end']:.2f}",
            "score change": _with_error(row, "score_change"),
            "accuracy": f"{row['accuracy_start']:.2f} → {row['accuracy_end']:.2f}",
            "accuracy change": _with_error(row, "accuracy_change"),
        }
        for row in summary.to_dict("records")
    ]
    table = pd.DataFrame(lines)
    recorded = bool(summary["accuracy_change"].notna().any())
    return table if recorded else table.drop(columns=["accuracy", "accuracy change"])


def _with_error(row: Mapping[Any, Any], column: str) -> str:
    value, stderr = row[column], row[f"{column}_stderr"]
    return f"{value:.2f}" + ("" if isnan(stderr) else f" ± {stderr:.2f}")
