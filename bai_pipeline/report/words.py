"""The page's first section: what happened in the study, in sentences that rules fixed here make of its tables."""

from math import isnan

import pandas as pd

from bai_pipeline.dynamics.sentences import listed
from bai_pipeline.dynamics.sweeps import FAILURES
from bai_pipeline.evals.comparisons import AVERAGE
from bai_pipeline.evals.writing import column_standings
from bai_pipeline.report.blocks import Block, Hole, Items, Section, Text
from bai_pipeline.report.colours import display_name
from bai_pipeline.report.curves import init_order, inits_named
from bai_pipeline.report.results import StudyResults
from bai_pipeline.report.verdict_blocks import NO_VERDICTS, title, verdict_sentences


def summary_blocks(results: StudyResults, summary: pd.DataFrame | None) -> list[Block]:
    """The runs, their lengths, the verdicts, the scores and the recommendation.

    Args:
        summary: made by `summarize`; None without runs.
    """
    names = (("Paradigms", "paradigm_table", results.paradigms), ("Ratios", "ratio_table", results.ratios))
    scores = [f"**{name}:** {ahead(frame, results.comparisons.get(key))}" for name, key, frame in names]
    found = NO_VERDICTS if results.verdicts.empty else Items(verdict_sentences(results.verdicts))
    blocks: list[Block] = [Text(_runs(results.runs)), found]
    if summary is not None:
        blocks.append(Section("Lengths", [Items(length_sentences(summary, results.headline_alpha))]))
    blocks += [
        Section("Scores", [Items(scores)]),
        Section("Which ratio", recommendation_sentences(results.recommendation, results.verdicts)),
    ]
    return [*blocks, Section("Remarks", [Items(list(results.notes))])] if results.notes else blocks


def length_sentences(summary: pd.DataFrame, headline_alpha: str) -> list[str]:
    """Start, end and ratio of the mean length of both paradigms and of BAI at its headline ratio."""
    wanted = ("paradigm_1", "paradigm_3", f"alpha {headline_alpha}")
    shown = summary[summary["init"].isin(inits_named(summary["init"], wanted))]
    sentences = []
    for row in shown.to_dict("records"):
        init = str(row["init"])
        error = "" if isnan(row["length_ratio_stderr"]) else f" ± {row['length_ratio_stderr']:.2f} (standard error)"
        sentences.append(
            f"**{display_name(init)}:** mean response length {row['length_start']:.1f} → {row['length_end']:.1f} "
            f"tokens, {row['length_ratio']:.2f}{error} of each run's own start."
        )
    return sentences or ["Neither paradigm nor the headline ratio was run."]


def recommendation_sentences(goals: pd.DataFrame, verdicts: pd.DataFrame) -> list[Block]:
    """A sentence per goal: the alpha that is ahead, whether that is resolved, and what failed in its runs."""
    if goals.empty:
        return [NO_RECOMMENDATION]
    sentences = []
    for row in goals.to_dict("records"):
        if pd.isna(row["alpha"]):
            sentences.append(f"**Best for {row['goal']}:** none can be named. {row['reason']}")
            continue
        band = "" if pd.isna(row["low"]) else f" ({row['low']:.3g} to {row['high']:.3g})"
        resolved = "resolved from every other alpha" if row["resolved"] else "not resolved from every other alpha"
        sentences.append(
            f"**Best for {row['goal']}:** alpha {row['alpha']}, {row['value']:.3g}{band} {row['unit']}, {resolved}."
            f"{_beware(str(row['alpha']), verdicts)}"
        )
    return [Items(sentences), Text(RESOLVED)]


RESOLVED = (
    "Resolved means: beyond what runs of the same alpha differ by. The paired tests of scores above speak of other "
    "questions for these very models, not of other seeds."
)


def _beware(alpha: str, verdicts: pd.DataFrame) -> str:
    """In how many runs of the alpha something failed, and what; empty if nothing did."""
    if verdicts.empty:
        return ""
    runs = verdicts[verdicts["init"] == f"alpha {alpha}"]
    failed = runs[runs["detector"].map(FAILURES).eq(runs["verdict"])]
    if failed.empty:
        return ""
    names = listed(sorted({title(str(name)) for name in failed["detector"]}))
    return f" Beware: {names} in {failed['seed'].nunique()} of its {runs['seed'].nunique()} runs."


NO_RECOMMENDATION = Hole("Recommendation", "no ratio has been recommended for this study")


def _runs(runs: pd.DataFrame) -> str:
    if runs.empty:
        return "No run of this study has metrics."
    seeds = runs.groupby("init")["seed"].nunique()
    steps = runs.groupby(["init", "seed"])["step"].nunique()
    inits = sorted(seeds.index, key=init_order)
    return (
        f"{len(steps)} PPO runs of {len(inits)} initializations ({listed([display_name(init) for init in inits])}), "
        f"{_span(seeds)} seed{'' if seeds.max() == 1 else 's'} each, {_span(steps)} steps."
    )


def _span(counts: "pd.Series[int]") -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def ahead(frame: pd.DataFrame, comparisons: pd.DataFrame | None) -> str:
    """The row with the highest average, and whether it differs from the others."""
    if frame.empty or AVERAGE not in frame.columns or not frame[AVERAGE].notna().any():
        return "no row has an average score."
    label = str(frame.columns[0])
    top = frame[frame[AVERAGE].notna()].sort_values(AVERAGE, kind="stable").iloc[-1]
    error = "" if isnan(top[f"{AVERAGE} stderr"]) else f" ± {top[f'{AVERAGE} stderr']:.3f}"
    name = f"alpha {top[label]}" if label == "alpha" else str(top[label])
    holes = int(frame[AVERAGE].isna().sum())
    rest = f" {holes} of {len(frame)} rows have no average." if holes else ""
    head = f"the highest average score is {top[AVERAGE]:.3f}{error}, of {name}; "
    standing = None if comparisons is None else column_standings(frame, comparisons).get(AVERAGE)
    if standing is None:
        return f"{head}the rows were not compared by a test of averages.{rest}"
    if standing.top != str(top[label]):
        return f"{head}on the questions that rows share, {standing.top} has the highest.{rest}"
    if standing.best is not None:
        return f"{head}by a paired test it differs from every other row.{rest}"
    return (
        f"{head}by a paired test it cannot be told from {len(standing.rivals)} of {standing.others} other rows.{rest}"
    )
