"""Score tables as CSV and Markdown files."""

import math
from pathlib import Path

import pandas as pd

from bai_pipeline.evals.tables import measured_benchmarks
from bai_pipeline.paper import NOT_AVAILABLE, PaperTable

STDERR_NOTE = (
    "Score ± standard error: exact match of the final answer, a share of 1, mean over seeds. The error covers the "
    "choice of problems and, with two or more seeds, of seeds: stderr² = mean of the seeds' squared errors + variance "
    "between seeds / number of seeds. It is 0 where every answer is right, or every one wrong: that is the formula's "
    "limit, not certainty."
)
PAPER_NOTE = (
    "Not measured here and not comparable with the rows above: other models, other benchmarks, percent, no standard "
    "errors given."
)


def to_markdown(table: pd.DataFrame) -> str:
    """A table made by `tables` as Markdown: `score ± error` in one cell, "not run" for a hole."""
    label = table.columns[0]
    names = [*measured_benchmarks(table), "average"]
    header = [label, "seeds", *names, "note"]
    body = [
        [
            str(row[label]),
            str(row["seeds"]),
            *(_cell(float(row[name]), float(row[f"{name} stderr"])) for name in names),
            str(row["note"]),
        ]
        for _, row in table.iterrows()
    ]
    return _grid(header, body)


def plain_markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, its cells as they are."""
    body = [[str(value) for value in row] for row in table.itertuples(index=False)]
    return _grid([str(column) for column in table.columns], body)


def write_table(
    table: pd.DataFrame, out: Path, name: str, paper: tuple[pd.DataFrame, PaperTable] | None = None
) -> list[Path]:
    """Write `<name>.csv` and `<name>.md`; with `paper`, `<name>.paper.csv` and a second block in the Markdown.

    Args:
        table: made by `paradigm_table` or `ratio_table`.
        out: existing directory.
        paper: the paper's values as a table and where they are from. Never in the same CSV as ours.

    Returns:
        The files written.
    """
    csv, markdown = out / f"{name}.csv", out / f"{name}.md"
    table.to_csv(csv, index=False)
    blocks = [to_markdown(table), STDERR_NOTE]
    files = [csv, markdown]
    if paper is not None:
        values, source = paper
        paper_csv = out / f"{name}.paper.csv"
        values.to_csv(paper_csv, index=False)
        files.append(paper_csv)
        blocks += [paper_block(values, source)]
    markdown.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return files


def paper_block(values: pd.DataFrame, source: PaperTable) -> str:
    """The paper's table with its label, warning and source; columns of which nothing is known are only named."""
    absent = [column for column in values.columns if (values[column] == NOT_AVAILABLE).all()]
    blocks = [f"**Paper: {source.title}.** {PAPER_NOTE}", plain_markdown(values.drop(columns=absent))]
    if absent:
        names = ", ".join(column.removeprefix("paper: ") for column in absent)
        blocks.append(f"Columns {NOT_AVAILABLE}: {names}.")
    return "\n\n".join([*blocks, f"Source: {source.source}."])


def _cell(score: float, stderr: float) -> str:
    if math.isnan(score):
        return "not run"
    return f"{score:.3f} ± " + ("n/a" if math.isnan(stderr) else f"{stderr:.3f}")


def _grid(header: list[str], body: list[list[str]]) -> str:
    rule = ["---" if number == 0 or name == "note" else "---:" for number, name in enumerate(header)]
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
