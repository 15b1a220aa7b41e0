"""Score tables as CSV and Markdown files."""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from bai_pipeline.evals.comparisons import AVERAGE, BOOTSTRAP, LEVEL, MCNEMAR, Standing, best_rows
from bai_pipeline.evals.tables import measured_benchmarks
from bai_pipeline.paper import NOT_AVAILABLE, PaperTable

STDERR_NOTE = (
    "Score ± standard error: the weighted mean over a benchmark's questions, a share of 1, mean over seeds. The error "
    "covers the choice of questions and, with two or more seeds, of seeds: stderr² = mean of the seeds' squared errors "
    "+ variance between seeds / number of seeds. It is 0 where every answer is right, or every one wrong: that is the "
    "formula's limit, not certainty."
)
PAPER_NOTE = (
    "Not measured here and not comparable with the rows above: other models, other benchmarks, percent, no standard "
    "errors given."
)


def to_markdown(table: pd.DataFrame, comparisons: pd.DataFrame | None = None) -> str:
    """A table made by `tables` as Markdown: `score ± error` in one cell, "not run" for a hole.

    Args:
        table: made by `paradigm_table` or `ratio_table`.
        comparisons: of its rows, made by `paired_comparisons`; the best row of a column is then bold, see
            `comparisons_note`. Without them no cell is.
    """
    label = table.columns[0]
    names = [*measured_benchmarks(table), AVERAGE]
    best = {} if comparisons is None else best_labels(table, comparisons)
    header = [label, "seeds", *names, "note"]
    body = [
        [
            str(row[label]),
            str(row["seeds"]),
            *(_cell(float(row[name]), float(row[f"{name} stderr"]), best.get(name) == row[label]) for name in names),
            str(row["note"]),
        ]
        for _, row in table.iterrows()
    ]
    return _grid(header, body)


def column_standings(table: pd.DataFrame, comparisons: pd.DataFrame) -> dict[str, Standing]:
    """Column of a table → who is ahead there. An average of one benchmark is that benchmark, and is compared as it."""
    standings = best_rows(comparisons)
    run = [name for name in measured_benchmarks(table) if table[name].notna().any()]
    if len(run) == 1 and run[0] in standings:
        standings[AVERAGE] = standings[run[0]]
    return standings


def best_labels(table: pd.DataFrame, comparisons: pd.DataFrame) -> Mapping[str, str]:
    """Column of a table → label of the row that is best there, where one is."""
    standings = column_standings(table, comparisons)
    return {name: standing.best for name, standing in standings.items() if standing.best is not None}


def comparisons_note(comparisons: pd.DataFrame) -> str:
    """What a bold cell means, for how many comparisons p was corrected, and where no row can be called best."""
    if comparisons.empty:
        return "No two rows ran the same benchmark: none is compared, and none is marked as best."
    standings = best_rows(comparisons)
    count = len(comparisons)
    kinds = ((MCNEMAR, "McNemar's exact test"), (BOOTSTRAP, "a paired bootstrap"))
    methods = [f"{(comparisons['method'] == method).sum()} by {name}" for method, name in kinds]
    tests = f"{count} comparison{'s' * (count > 1)} of this table ({', '.join(methods)})"
    rule = (
        f"the row's score on the same questions is above that of every other row, each difference with p ≤ {LEVEL} "
        f"after Holm's correction for all {tests}."
    )
    marked = any(standing.best for standing in standings.values())
    sentences = [f"**Bold**: {rule}" if marked else f"No row is best in any column, which would be bold where {rule}"]
    open_ = [f"{name}: {_not_told_apart(standing)}" for name, standing in standings.items() if standing.rivals]
    if open_:
        sentences.append(f"Not distinguishable by that measure: {'; '.join(open_)}.")
    sentences.append(
        "A row with one seed stands for that one model: how much another seed would differ is not in its p."
    )
    return " ".join(sentences)


def plain_markdown(table: pd.DataFrame) -> str:
    """Any table as Markdown, its cells as they are."""
    body = [[str(value) for value in row] for row in table.itertuples(index=False)]
    return _grid([str(column) for column in table.columns], body)


def write_table(
    table: pd.DataFrame,
    out: Path,
    name: str,
    paper: tuple[pd.DataFrame, PaperTable] | None = None,
    *,
    comparisons: pd.DataFrame | None = None,
) -> list[Path]:
    """Write `<name>.csv` and `<name>.md`; with `paper`, `<name>.paper.csv` and a second block in the Markdown.

    Args:
        table: made by `paradigm_table` or `ratio_table`.
        out: existing directory.
        paper: the paper's values as a table and where they are from. Never in the same CSV as ours.
        comparisons: of the table's rows, made by `paired_comparisons`: written as `<name>_comparisons.csv`, and the
            best rows are marked.

    Returns:
        The files written.
    """
    csv, markdown = out / f"{name}.csv", out / f"{name}.md"
    table.to_csv(csv, index=False)
    blocks = [to_markdown(table, comparisons), STDERR_NOTE]
    files = [csv, markdown]
    if comparisons is not None:
        pairs = out / f"{name}_comparisons.csv"
        comparisons.to_csv(pairs, index=False)
        files.append(pairs)
        blocks += [comparisons_note(comparisons), f"All comparisons: [{pairs.name}]({pairs.name})."]
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


def _not_told_apart(standing: Standing) -> str:
    rivals = "any other row" if len(standing.rivals) == standing.others > 1 else ", ".join(standing.rivals)
    return f"{standing.top} (the highest) from {rivals}"


def _cell(score: float, stderr: float, best: bool) -> str:
    if math.isnan(score):
        return "not run"
    text = f"{score:.3f} ± " + ("n/a" if math.isnan(stderr) else f"{stderr:.3f}")
    return f"**{text}**" if best else text


def _grid(header: list[str], body: list[list[str]]) -> str:
    rule = ["---" if number == 0 or name == "note" else "---:" for number, name in enumerate(header)]
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("|", "\\|")
