"""The paradigm table and the ratio table: scores of our own runs, and beside them, apart, what the paper printed.

A table has a line per row: its label, `seeds`, for each benchmark `<benchmark>` and `<benchmark> stderr`, `average`,
`average stderr`, and `note`. What was not run is NaN, and its reason is in the note. Standard errors: see `seeds`.

The average is over the benchmarks that at least one row ran; a row that lacks one of them, or one of its seeds, has
none. Where the columns hold a benchmark that no row ran, the note names those that the average is over.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bai_pipeline.errors import DataError
from bai_pipeline.evals.seeds import combine_benchmarks, combine_seeds
from bai_pipeline.paper import NOT_AVAILABLE, TABLE_1, TABLE_2, PaperTable

SCORE_COLUMNS = ("row", "seed", "benchmark", "score", "stderr", "n")
NO_REASON = "not run, no reason recorded"
NOT_MATERIALIZED = "not materialized"


def paradigm_table(
    scores: pd.DataFrame,
    rows: Sequence[str],
    holes: Mapping[str, str],
    benchmarks: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Paradigms 1, 2, 3 and BAI against benchmarks (the paper's Table 1, on our benchmarks).

    Args:
        scores: columns row, seed, benchmark, score, stderr, n, and optionally reason; one line per evaluation. A line
            whose score is null is a hole, its reason says why.
        rows: labels in the order wanted, present in `scores["row"]` or explained in `holes`.
        holes: why a row ("Paradigm 1") or one benchmark of it ("Paradigm 1/held_out_sum") has no line in `scores`.
        benchmarks: columns in the order wanted; default all of `scores`, in their order there.
        seeds: those that a row should have; the absent ones are in its note. A model that PPO did not make has the
            seed -1, and no others.

    Raises:
        DataError: a column is absent, a (row, seed, benchmark) occurs twice, or a line has a score and a reason.
    """
    return _table("paradigm", scores, rows, holes, benchmarks, seeds)


def ratio_table(
    scores: pd.DataFrame,
    alphas: Sequence[str],
    holes: Mapping[str, str],
    benchmarks: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """Mixing ratios against benchmarks (the paper's Table 2, on our benchmarks), alphas ascending.

    Args:
        scores: as in `paradigm_table`, with the alpha ("0.1") as the row.
        alphas, holes, benchmarks, seeds: as in `paradigm_table`.

    Raises:
        DataError: as in `paradigm_table`.
    """
    return _table("alpha", scores, sorted(alphas, key=float), holes, benchmarks, seeds)


def paper_paradigm_table() -> pd.DataFrame:
    """The paper's Table 1; percent, its own benchmarks, no standard errors."""
    return _paper_table("paradigm", TABLE_1)


def paper_ratio_table() -> pd.DataFrame:
    """The paper's Table 2; percent, its own benchmarks, no standard errors."""
    return _paper_table("alpha", TABLE_2)


def measured_benchmarks(table: pd.DataFrame) -> list[str]:
    """Benchmarks of a table made here, in its order."""
    ends = {f"{column} stderr" for column in table.columns} & set(table.columns)
    return [c for c in table.columns if f"{c} stderr" in ends and c != "average"]


def _table(
    label: str,
    scores: pd.DataFrame,
    rows: Sequence[str],
    holes: Mapping[str, str],
    benchmarks: Sequence[str] | None,
    asked: Sequence[int],
) -> pd.DataFrame:
    checked = _checked(scores)
    names = list(dict.fromkeys(checked["benchmark"])) if benchmarks is None else list(benchmarks)
    shown = checked[checked["row"].isin(list(rows))]
    run = set(shown.loc[shown["score"].notna(), "benchmark"])
    averaged = [name for name in names if name in run]
    columns = [label, "seeds", *(c for b in [*names, "average"] for c in (b, f"{b} stderr")), "note"]
    lines = [_line(label, row, shown[shown["row"] == row], names, averaged, holes, asked) for row in rows]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype(dict.fromkeys(columns[2:-1], "float64") | {"seeds": "int64"})


def _line(
    label: str,
    row: str,
    scores: pd.DataFrame,
    benchmarks: Sequence[str],
    averaged: Sequence[str],
    holes: Mapping[str, str],
    asked: Sequence[int],
) -> dict[str, Any]:
    """Combine the seeds of one row; what is missing goes to the note."""
    run = scores[scores["score"].notna()]
    line: dict[str, Any] = {label: row, "seeds": run["seed"].nunique()}
    if scores.empty:
        return line | {"note": holes.get(row, NO_REASON)}
    notes = _absent_seeds(scores, asked)
    for name in benchmarks:
        notes += _reasons(name, scores[scores["benchmark"] == name], holes.get(f"{row}/{name}", NO_REASON))
    groups = {name: run[run["benchmark"] == name].sort_values("seed") for name in benchmarks}
    for name, group in groups.items():
        if not group.empty:
            estimate = combine_seeds(group["score"].tolist(), group["stderr"].tolist())
            line |= {name: estimate.score, f"{name} stderr": estimate.stderr}
    seeds = {tuple(groups[name]["seed"]) for name in averaged}
    if len(seeds) == 1:
        estimate = combine_benchmarks(
            [groups[name]["score"].tolist() for name in averaged],
            [groups[name]["stderr"].tolist() for name in averaged],
        )
        line |= {"average": estimate.score, "average stderr": estimate.stderr}
        if len(averaged) < len(benchmarks):
            notes.append(f"average over {', '.join(averaged)} alone")
    elif averaged:
        notes.append("average: not every benchmark was run with every seed")
    return line | {"note": "; ".join(notes)}


def _reasons(benchmark: str, lines: pd.DataFrame, absent: str) -> list[str]:
    """Why a row has no score on a benchmark, or none of some seeds."""
    if lines.empty:
        return [f"{benchmark}: {absent}"]
    unscored = lines[lines["score"].isna()].sort_values("seed")
    reasons = [(seed, str(reason)) for seed, reason in zip(unscored["seed"], unscored["reason"], strict=True)]
    if len(reasons) == len(lines) and len({reason for _, reason in reasons}) == 1:
        return [f"{benchmark}: {reasons[0][1]}"]
    return [f"{benchmark}, seed {seed}: {reason}" for seed, reason in reasons]


def _absent_seeds(scores: pd.DataFrame, asked: Sequence[int]) -> list[str]:
    """A note on the seeds that were asked for and have no line in a row of PPO runs."""
    found = set(scores["seed"])
    absent = [str(seed) for seed in asked if seed not in found]
    if not absent or max(found) < 0:
        return []
    return [f"seed{'s' * (len(absent) > 1)} {', '.join(absent)}: {NOT_MATERIALIZED}"]


def _checked(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with a reason wherever the score is null."""
    absent = [c for c in SCORE_COLUMNS if c not in scores.columns]
    if absent:
        raise DataError(f"expected a scores table with columns {', '.join(SCORE_COLUMNS)}, {', '.join(absent)} absent")
    twice = scores[scores.duplicated(["row", "seed", "benchmark"])]
    if not twice.empty:
        raise DataError(f"expected one score per row, seed and benchmark, got several for {_place(twice)}")
    # A column of nulls alone is read from Parquet as objects.
    score = scores["score"].astype("float64")
    reason = scores["reason"] if "reason" in scores.columns else pd.Series(None, index=scores.index, dtype="object")
    both = scores[score.notna() & reason.notna()]
    if not both.empty:
        raise DataError(f"expected a score or the reason why there is none, got both for {_place(both)}")
    told = reason.astype("object").where(reason.notna(), NO_REASON)
    return scores.assign(score=score, stderr=scores["stderr"].astype("float64"), reason=told)


def _place(lines: pd.DataFrame) -> str:
    first = lines.iloc[0]
    return f"{first['row']}, seed {first['seed']}, {first['benchmark']}"


def _paper_table(label: str, table: PaperTable) -> pd.DataFrame:
    """Every column but the first says "paper: …"; a value that was not found says so in its cell."""
    lines = [
        {label: f"paper: {row}"}
        | {f"paper: {b}": NOT_AVAILABLE if (v := values.get(b)) is None else f"{v:.1f}" for b in table.columns}
        for row, values in table.rows.items()
    ]
    return pd.DataFrame(lines)
