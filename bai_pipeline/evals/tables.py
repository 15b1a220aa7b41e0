"""The paradigm table and the ratio table: scores of our own runs, and beside them, apart, what the paper printed.

A table has a line per row: its label, `seeds`, for each benchmark `<benchmark>` and `<benchmark> stderr`, `average`,
`average stderr`, and `note`. What was not run is NaN, and its reason is in the note; an average over only some of the
benchmarks is never given. Standard errors: see `seeds`.
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
        scores: columns row, seed, benchmark, score, stderr, n; one line per evaluation.
        rows: labels in the order wanted, present in `scores["row"]` or explained in `holes`.
        holes: why a row ("Paradigm 1") or one benchmark of it ("Paradigm 1/held_out_sum") was not run.
        benchmarks: columns in the order wanted; default all of `scores`, in their order there.
        seeds: those that a row should have; the absent ones are in its note. A model that PPO did not make has the
            seed -1, and no others.

    Raises:
        DataError: a column is absent or a (row, seed, benchmark) occurs twice.
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
    _check_scores(scores)
    names = list(dict.fromkeys(scores["benchmark"])) if benchmarks is None else list(benchmarks)
    columns = [label, "seeds", *(c for b in [*names, "average"] for c in (b, f"{b} stderr")), "note"]
    lines = [_line(label, row, scores[scores["row"] == row], names, holes, asked) for row in rows]
    table = pd.DataFrame(lines, columns=columns)
    return table.astype(dict.fromkeys(columns[2:-1], "float64") | {"seeds": "int64"})


def _line(
    label: str,
    row: str,
    scores: pd.DataFrame,
    benchmarks: Sequence[str],
    holes: Mapping[str, str],
    asked: Sequence[int],
) -> dict[str, Any]:
    """Combine the seeds of one row; what is missing goes to the note."""
    line: dict[str, Any] = {label: row, "seeds": scores["seed"].nunique()}
    if scores.empty:
        return line | {"note": holes.get(row, NO_REASON)}
    notes = _absent_seeds(scores, asked)
    groups = {name: scores[scores["benchmark"] == name].sort_values("seed") for name in benchmarks}
    for name, group in groups.items():
        if group.empty:
            notes.append(f"{name}: {holes.get(f'{row}/{name}', NO_REASON)}")
            continue
        estimate = combine_seeds(group["score"].tolist(), group["stderr"].tolist())
        line |= {name: estimate.score, f"{name} stderr": estimate.stderr}
    seeds = {tuple(group["seed"]) for group in groups.values()}
    if len(seeds) == 1:
        estimate = combine_benchmarks(
            [group["score"].tolist() for group in groups.values()],
            [group["stderr"].tolist() for group in groups.values()],
        )
        line |= {"average": estimate.score, "average stderr": estimate.stderr}
    else:
        notes.append("average: not every benchmark was run with every seed")
    return line | {"note": "; ".join(notes)}


def _absent_seeds(scores: pd.DataFrame, asked: Sequence[int]) -> list[str]:
    """A note on the seeds that were asked for and have no score in a row of PPO runs."""
    found = set(scores["seed"])
    absent = [str(seed) for seed in asked if seed not in found]
    if not absent or max(found) < 0:
        return []
    return [f"seed{'s' * (len(absent) > 1)} {', '.join(absent)}: {NOT_MATERIALIZED}"]


def _check_scores(scores: pd.DataFrame) -> None:
    absent = [c for c in SCORE_COLUMNS if c not in scores.columns]
    if absent:
        raise DataError(f"expected a scores table with columns {', '.join(SCORE_COLUMNS)}, {', '.join(absent)} absent")
    twice = scores[scores.duplicated(["row", "seed", "benchmark"])]
    if not twice.empty:
        first = twice.iloc[0]
        raise DataError(
            f"expected one score per row, seed and benchmark, got several for {first['row']}, seed {first['seed']}, "
            f"{first['benchmark']}"
        )


def _paper_table(label: str, table: PaperTable) -> pd.DataFrame:
    """Every column but the first says "paper: …"; a value that was not found says so in its cell."""
    lines = [
        {label: f"paper: {row}"}
        | {f"paper: {b}": NOT_AVAILABLE if (v := values.get(b)) is None else f"{v:.1f}" for b in table.columns}
        for row, values in table.rows.items()
    ]
    return pd.DataFrame(lines)
