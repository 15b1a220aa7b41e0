"""The report of one study: an HTML page, the same as Markdown, and its tables and figures as files beside them."""

from pathlib import Path

import pandas as pd

from bai_pipeline import paper
from bai_pipeline.evals.tables import paper_paradigm_table, paper_ratio_table
from bai_pipeline.evals.writing import write_table
from bai_pipeline.report.dynamics_pictures import dynamics_pictures
from bai_pipeline.report.figures import write_picture
from bai_pipeline.report.html import page_html
from bai_pipeline.report.markdown import page_markdown
from bai_pipeline.report.page import study_page
from bai_pipeline.report.pictures import Picture
from bai_pipeline.report.results import StudyResults
from bai_pipeline.report.summary import summarize


def write_report(out: Path, results: StudyResults) -> Path:
    """Write report.html, report.md, case_studies.md, tables/ and figures/.

    Args:
        out: existing directory.
        results: what is missing there becomes a hole on the page.

    Returns:
        The path of report.html, which is whole without the other files; its links to numbers are relative.

    Raises:
        DataError: a table is contradictory, for example has a run's step twice.
    """
    tables, figures = out / "tables", out / "figures"
    tables.mkdir()
    figures.mkdir()
    summary = _summary(results.runs)
    _write_tables(results, summary, tables)
    if results.case_studies is not None:
        (out / "case_studies.md").write_text(results.case_studies, encoding="utf-8")
    pictures = dynamics_pictures(
        results.runs,
        results.responses,
        results.prefixes,
        bucket_width=results.bucket_width,
        headline_alpha=results.headline_alpha,
        score_label=results.score_label,
    )
    pngs = {picture.name: write_picture(picture, figures) for picture in pictures if isinstance(picture, Picture)}
    page = study_page(results, summary, pictures, pngs)
    (out / "report.md").write_text(page_markdown(page, out), encoding="utf-8")
    path = out / "report.html"
    path.write_text(page_html(page), encoding="utf-8")
    return path


def _summary(runs: pd.DataFrame) -> pd.DataFrame | None:
    needed = ["init", "seed", "step", "length_mean", "score_mean"]
    return None if runs.empty or not set(needed) <= set(runs.columns) else summarize(runs)


def _write_tables(results: StudyResults, summary: pd.DataFrame | None, tables: Path) -> None:
    """Every table of the page, whole."""
    scores = (
        ("paradigm_table", results.paradigms, (paper_paradigm_table(), paper.TABLE_1)),
        ("ratio_table", results.ratios, (paper_ratio_table(), paper.TABLE_2)),
    )
    for name, frame, papers in scores:
        if not frame.empty:
            write_table(frame, tables, name, papers, comparisons=results.comparisons.get(name))
    others = {
        "verdicts": results.verdicts,
        "dynamics_summary": summary,
        "contamination": results.contamination,
        "recommendation": results.recommendation,
        "next_alphas": results.next_alphas,
        "merge_weights": results.weights,
        "lineage": results.lineage,
        "costs": results.costs,
    }
    for name, other in others.items():
        if other is not None and not other.empty:
            other.to_csv(tables / f"{name}.csv", index=False)
