"""The page of a study as blocks, in their order."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from bai_pipeline import paper
from bai_pipeline.dynamics.sweeps import END_SHARE
from bai_pipeline.evals.tables import measured_benchmarks, paper_paradigm_table, paper_ratio_table
from bai_pipeline.evals.writing import PAPER_NOTE, STDERR_NOTE, comparisons_note
from bai_pipeline.report.blocks import Block, Details, Figure, Hole, Items, Links, Page, Section, Text
from bai_pipeline.report.case_blocks import case_blocks
from bai_pipeline.report.cells import score_table, summary_table, table
from bai_pipeline.report.colours import display_name
from bai_pipeline.report.pictures import Absent, Picture
from bai_pipeline.report.results import StudyResults
from bai_pipeline.report.statements import hockey_sticks, over_optimized, seeds_and_errors, short_starts
from bai_pipeline.report.verdict_blocks import verdict_blocks
from bai_pipeline.report.words import NO_RECOMMENDATION, summary_blocks

HOW_TO = (
    "Figures of the HTML page show their numbers under the pointer. A line's name hides and shows it, a double click "
    "on the name shows it alone; dragging zooms, a double click on the figure goes back."
)
NO_RUNS = "no run of this study has metrics: no dynamics are shown"


def study_page(
    results: StudyResults,
    summary: pd.DataFrame | None,
    pictures: Sequence[Picture | Absent],
    pngs: Mapping[str, Path],
) -> Page:
    """All sections.

    Args:
        summary: made by `summarize`; None where it cannot be made.
        pictures: made by `dynamics_pictures`.
        pngs: name of a picture → its file.
    """
    ratios = Text("alpha is the weight of the base model; 0 is the merged SFT itself.")
    sections = [
        Section("Summary", summary_blocks(results, summary)),
        Section("Verdict per run", [*verdict_blocks(results.verdicts), *_csv(results.verdicts, "verdicts")]),
        Section("Training dynamics", _dynamics(summary, pictures, pngs)),
        Section("Scores by paradigm", _scores(results, "paradigm_table", results.paradigms)),
        Section(
            "Scores by ratio", [ratios, *_scores(results, "ratio_table", results.ratios), *_contamination(results)]
        ),
        Section("What is confounded", _confounded(summary, results.verdicts)),
        Section("Recommendation", _recommendation(results)),
        Section("Case studies", _case_studies(results.case_studies)),
        Section("Recipe and lineage", _recipe(results)),
        Section("Costs", _costs(results.costs)),
        Section("The paper's values", _paper()),
    ]
    return Page(f"Report of the study {results.study}", sections)


def _dynamics(
    summary: pd.DataFrame | None, pictures: Sequence[Picture | Absent], pngs: Mapping[str, Path]
) -> list[Block]:
    blocks: list[Block] = [Text(HOW_TO)] if pngs else []
    for picture in pictures:
        if isinstance(picture, Picture):
            blocks.append(Figure(picture, pngs[picture.name]))
        else:
            blocks.append(Hole(picture.title, picture.reason))
    if summary is None:
        return [Hole("Start and end of each run", NO_RUNS), *blocks]
    definition = (
        f"Start: the first step, before any update. End: mean of the last {100 // END_SHARE}% of the steps. Changes "
        "are taken run by run; ± is one standard error over seeds."
    )
    return [*blocks, summary_table(summary, "Start and end"), Text(definition), *_csv(summary, "dynamics_summary")]


def _scores(results: StudyResults, name: str, frame: pd.DataFrame) -> list[Block]:
    """A table of scores, and what may be said of its rows against each other."""
    if frame.empty:
        return [Hole("Scores", "no row of this table has been asked for")]
    comparisons = results.comparisons.get(name)
    blocks: list[Block] = [score_table(frame, name.replace("_", " ").capitalize(), comparisons)]
    if comparisons is None:
        blocks.append(Hole("Comparisons", "the rows were not compared, none is marked as best"))
    else:
        blocks.append(Text(comparisons_note(comparisons)))
    blocks.append(Text(STDERR_NOTE))
    if not measured_benchmarks(frame) or not frame["average"].notna().any():
        blocks.append(Hole("Averages", "no row ran every benchmark with every seed"))
    links = [(f"{name}.csv", f"tables/{name}.csv")]
    links += [] if comparisons is None else [(f"{name}_comparisons.csv", f"tables/{name}_comparisons.csv")]
    return [*blocks, Links(links)]


def _contamination(results: StudyResults) -> list[Block]:
    title = "Benchmark questions in the training data"
    if results.contamination is None or results.contamination.empty:
        return [Section(title, [Hole("Contamination", "the training data was not searched for benchmark questions")])]
    counts = table(results.contamination, "Contaminated questions", {"share": ".3f"})
    return [Section(title, [counts, *_csv(results.contamination, "contamination")])]


def _confounded(summary: pd.DataFrame | None, verdicts: pd.DataFrame) -> list[Block]:
    if summary is None:
        return [Hole("Confounders", NO_RUNS)]
    return [
        Items(
            [
                f"**Length at the start.** {short_starts(summary)}",
                f"**Over-optimization.** {over_optimized(verdicts)}",
                f"**Reward hockey stick.** {hockey_sticks(verdicts)}",
                f"**Seeds.** {seeds_and_errors(summary)}",
            ]
        )
    ]


def _recommendation(results: StudyResults) -> list[Block]:
    if results.recommendation.empty:
        blocks: list[Block] = [NO_RECOMMENDATION]
    else:
        goals = results.recommendation
        numbers = goals.drop(columns=["tied", "reason"], errors="ignore")
        reasons = [f"**{row['goal']}:** {row['reason']}" for row in goals.to_dict("records")]
        blocks = [table(numbers, "Best alpha by goal"), Items(reasons), *_csv(goals, "recommendation")]
    following = results.next_alphas
    what = "Next alphas"
    return [
        *blocks,
        Hole(what, "none is proposed") if following.empty else table(following, "What to train next"),
        *_csv(following, "next_alphas"),
    ]


def _case_studies(markdown: str | None) -> list[Block]:
    if markdown is None:
        return [Hole("Case studies", "no questions were laid side by side")]
    return [*case_blocks(markdown), Links([("case_studies.md", "case_studies.md")])]


def _recipe(results: StudyResults) -> list[Block]:
    weights, lineage = results.weights, results.lineage
    blocks: list[Block] = [Hole("Merge weights", "no merge is recorded")]
    if not weights.empty:
        blocks = [table(weights, "Weights of each merge"), *_csv(weights, "merge_weights")]
    if lineage.empty:
        return [*blocks, Hole("Lineage", "no asset of this study is in the store")]
    short = lineage.assign(
        **{column: lineage[column].astype("str").str.slice(0, 12) for column in ("job", "object", "digest")}
    )
    caption = f"{len(lineage)} assets and what they were made of"
    note = Text("Jobs, objects and digests by their first twelve characters; the CSV has them whole.")
    return [*blocks, Details(caption, [table(short, caption), note]), *_csv(lineage, "lineage")]


def _costs(costs: pd.DataFrame) -> list[Block]:
    measured = [c for c in costs.columns if c not in ("init", "seed")]
    if costs.empty or not measured:
        return [Hole("Costs", "no run has reported what it took")]
    costs = costs.astype(dict.fromkeys(measured, "float64"))  # what a run did not report is null
    phases = [str(c) for c in measured if str(c).endswith("_seconds") and c != "cpu_seconds"]
    named = costs.assign(init=costs["init"].map(lambda init: display_name(str(init))))
    total = [f"{len(costs)} runs"]
    if "sampled_tokens" in costs:
        total.append(f"{costs['sampled_tokens'].sum():,.0f} sampled tokens")
    if "cpu_seconds" in costs:
        total.append(f"{costs['cpu_seconds'].sum() / 3600:,.2f} CPU hours")
    if phases:
        wall = {phase: float(costs[phase].sum()) for phase in phases}
        parts = ", ".join(f"{phase.removesuffix('_seconds')} {value / 3600:,.2f}" for phase, value in wall.items())
        total.append(f"{sum(wall.values()) / 3600:,.2f} hours of wall time in the phases of PPO ({parts})")
    blank = int(costs[measured].isna().any(axis=1).sum())
    missing = f" {blank} of them did not report everything." if blank else ""
    formats = dict.fromkeys([c for c in measured if str(c).endswith("_seconds")], ",.1f")
    return [
        Text(f"{'; '.join(total)}.{missing}"),
        table(named, "Costs by run", {str(k): v for k, v in formats.items()}),
        *_csv(costs, "costs"),
    ]


def _paper() -> list[Block]:
    """The paper's tables, apart from ours."""
    blocks: list[Block] = []
    for values, source in ((paper_paradigm_table(), paper.TABLE_1), (paper_ratio_table(), paper.TABLE_2)):
        absent = [column for column in values.columns if (values[column] == paper.NOT_AVAILABLE).all()]
        blocks += [
            Text(f"**Paper: {source.title}.** {PAPER_NOTE}"),
            table(values.drop(columns=absent), f"Paper: {source.title}"),
        ]
        if absent:
            names = ", ".join(column.removeprefix("paper: ") for column in absent)
            blocks.append(Text(f"Columns {paper.NOT_AVAILABLE}: {names}."))
        blocks.append(Text(f"Source: {source.source}."))
    return blocks


def _csv(frame: pd.DataFrame, name: str) -> list[Block]:
    return [] if frame.empty else [Links([(f"{name}.csv", f"tables/{name}.csv")])]
