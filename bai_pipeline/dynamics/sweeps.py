"""Tables of the runs of many alphas as one line per run: what goals are made of.

The start of a run is its first step: the responses of the initialization itself. Its end is the mean over the last
fifth of its steps (at least one).

Tables name a run by alpha ("alpha 0.5" in `init`, "0.5" in a column `alpha`), seed, and, in all tables or in none, by
`chain`: one base, SFT and reward model.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import log, nan

import pandas as pd

from bai_pipeline.dynamics.standings import Goal, Kind
from bai_pipeline.errors import DataError

END_SHARE = 5
"""The end is the last one in this many steps."""

COLLAPSES = {"length_collapse": "collapsed", "entropy_collapse": "collapsed", "router_collapse": "collapsed"}
"""Verdicts after which a run is not worth going on with."""
FAILURES = {
    **COLLAPSES,
    "truncation": "truncating",
    "over_optimization": "over_optimized",
    "reward_hockey_stick": "decline",
}
"""Verdicts that say that a run ended worse than it should. A hockey stick that recovered is none; the critic's offset
and the KL announce or accompany what these say."""

RUN = ["alpha", "chain", "seed"]
AVERAGE = "benchmark average"


def goals_of(
    runs: pd.DataFrame, verdicts: pd.DataFrame, scores: pd.DataFrame | None, alphas: Sequence[str]
) -> Iterator[Goal]:
    """Stability, growth, score, accuracy, every benchmark and, where there are several, their average.

    - stability: share of runs in which nothing failed (`FAILURES`). A run counts if something failed in it, or if
      it came to the end of the sweep and its length did not collapse for certain.
    - growth, score, accuracy: only of alphas all of whose runs came to the end, the last step of the longest run. An
      alpha some of whose runs were stopped would be judged by those that were not.
    - benchmarks: only of alphas all of whose runs have a score.

    Raises:
        DataError: a column is absent, or a line is there twice.
    """
    table = run_numbers(runs_of_alphas(runs, alphas))
    diagnosed = failures(runs_of_alphas(verdicts, alphas))
    none = {alpha: "no runs" for alpha in alphas if alpha not in set(table["alpha"])}
    last = int(table["steps"].max()) if len(table) else 0
    short = table[table["steps"] < last]
    yield _stability(table.merge(diagnosed, on=RUN, how="left"), last, none)
    early = {
        str(alpha): f"{len(group)} of {(table['alpha'] == alpha).sum()} runs ended before step {last}"
        for alpha, group in short.groupby("alpha")
    }
    for name, what, unit, kind in _FROM_STEPS:
        yield _goal(name, what, unit, kind, table.assign(value=table[name]), none | early)
    if scores is not None:
        _check_columns(scores, ["alpha", "seed", "benchmark", "score", "stderr"])
        yield from _benchmarks(table, with_chain(scores[scores["alpha"].isin(list(alphas))]), none)


def runs_of_alphas(table: pd.DataFrame, alphas: Sequence[str]) -> pd.DataFrame:
    """The lines whose init is one of the alphas, with `alpha` and `chain`."""
    inits = {f"alpha {alpha}": alpha for alpha in alphas}
    _check_columns(table, ["init", "seed"])
    found = table[table["init"].isin(list(inits))]
    return with_chain(found.assign(alpha=found["init"].map(inits)))


def with_chain(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with a column `chain`, "" where it had none."""
    if "chain" not in table.columns:
        return table.assign(chain="")
    if bool(table["chain"].isna().any()):
        raise DataError("expected a chain in every line of a table that has chains, got lines without one")
    return table


def run_numbers(runs: pd.DataFrame) -> pd.DataFrame:
    """One line per run of a `steps` table of alphas.

    Returns:
        alpha, chain, seed, steps (last step + 1), growth (log of the length's end over its start), score, accuracy (at
        the end); NaN where it was not recorded.

    Raises:
        DataError: a column is absent, or a step is there twice.
    """
    columns = [*RUN, "steps", "growth", "score", "accuracy"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    _check_columns(runs, ["step", "length_mean", "score_mean"])
    _check_once(runs, "step")
    rows = []
    for key, run in runs.sort_values("step").groupby(RUN):
        end = run.tail(max(1, len(run) // END_SHARE))
        start, length = float(run["length_mean"].iloc[0]), float(end["length_mean"].mean())
        accuracy = float(end["accuracy"].mean()) if "accuracy" in run.columns else nan
        growth = log(length / start) if start > 0 and length > 0 else nan
        rows.append([*key, int(run["step"].iloc[-1]) + 1, growth, float(end["score_mean"].mean()), accuracy])
    return pd.DataFrame(rows, columns=columns)


def failures(verdicts: pd.DataFrame) -> pd.DataFrame:
    """One line per diagnosed run of a table of verdicts of alphas.

    Returns:
        alpha, chain, seed, failed (what failed, in words; "" if nothing), collapsed, determined (something failed, or
        the length did not collapse for certain).

    Raises:
        DataError: a column is absent, or a detector is there twice.
    """
    _check_columns(verdicts, ["detector", "verdict"])
    _check_once(verdicts, "detector")
    rows = []
    for key, run in verdicts.groupby(RUN):
        said = dict(zip(run["detector"], run["verdict"], strict=True))
        failed = [f"{name} {word}" for name, word in FAILURES.items() if said.get(name) == word]
        collapsed = any(said.get(name) == word for name, word in COLLAPSES.items())
        rows.append([*key, ", ".join(failed), collapsed, bool(failed) or said.get("length_collapse") == "healthy"])
    return pd.DataFrame(rows, columns=[*RUN, "failed", "collapsed", "determined"])


def run_name(alpha: object, chain: object, seed: object) -> str:
    """A run in words."""
    return f"alpha {alpha}, " + (f"chain {chain}, " if chain != "" else "") + f"seed {seed}"


def _check_columns(table: pd.DataFrame, columns: Sequence[str]) -> None:
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise DataError(f"expected a table with {', '.join(absent)}, got columns {', '.join(map(str, table.columns))}")


def _check_once(table: pd.DataFrame, within: str) -> None:
    """Each run has one line per value of the column `within`."""
    twice = table[table.duplicated([*RUN, within])]
    if not twice.empty:
        line = twice.iloc[0]
        raise DataError(
            f"expected one line per run and {within}, got several for {run_name(*line[RUN])}, {within} {line[within]}"
        )


_FROM_STEPS: tuple[tuple[str, str, str, Kind], ...] = (
    ("growth", "the growth of length from start to end", "times the start", "log_ratio"),
    ("score", "the score at the end", "score", "number"),
    ("accuracy", "the true accuracy at the end", "share", "accuracy"),
)


def _stability(table: pd.DataFrame, last: int, none: Mapping[str, str]) -> Goal:
    failed = table["failed"].fillna("").ne("")
    ended = table["steps"].ge(last)
    known = table["determined"].eq(True)  # NaN where the run has no verdicts
    value = failed.map({True: 0.0, False: 1.0}).where(failed | ended & table["determined"].notna())
    counted = table.assign(value=value)[~(ended & table["determined"].notna() & ~known)]
    undecided = {str(alpha): "every verdict is undetermined" for alpha in {*table["alpha"]} - {*counted["alpha"]}}
    what = "the share of runs in which nothing failed"
    return _goal("stability", what, "share of runs", "share", counted, {**none, **undecided})


def _benchmarks(table: pd.DataFrame, scores: pd.DataFrame, none: Mapping[str, str]) -> Iterator[Goal]:
    _check_once(scores, "benchmark")
    scored = scores.dropna(subset=["score"])
    wanted = pd.concat([table[RUN], scored[RUN]]).drop_duplicates()
    none = {alpha: reason for alpha, reason in none.items() if alpha not in set(wanted["alpha"])}
    names = list(dict.fromkeys(scored["benchmark"]))
    for name in names:
        lines = scored[scored["benchmark"] == name].rename(columns={"score": "value"})
        merged = wanted.merge(lines[[*RUN, "value", "stderr"]], on=RUN, how="left")
        yield _goal(f"benchmark {name}", f"the score on {name}", "share", "benchmark", merged, none)
    if len(names) > 1:
        groups = scored.assign(square=scored["stderr"] ** 2).groupby(RUN)
        lines = groups.agg(value=("score", "mean"), count=("score", "size")).reset_index()
        errors = groups["square"].sum(min_count=len(names)).to_numpy() ** 0.5 / len(names)
        lines = lines.assign(stderr=errors)[lines["count"] == len(names)]
        merged = wanted.merge(lines, on=RUN, how="left")
        what = f"the mean score on {len(names)} benchmarks"
        yield _goal(AVERAGE, what, "share", "benchmark", merged, none)


def _goal(name: str, what: str, unit: str, kind: Kind, runs: pd.DataFrame, left_out: Mapping[str, str]) -> Goal:
    """Without the alphas that are left out, or of which a run has no value."""
    absent = runs[runs["value"].isna() & ~runs["alpha"].isin(list(left_out))]
    lacking = {
        str(alpha): f"no {name} of {len(group)} of {(runs['alpha'] == alpha).sum()} runs"
        for alpha, group in absent.groupby("alpha")
    }
    reasons = {**left_out, **lacking}
    kept = runs[~runs["alpha"].isin(list(reasons))]
    values = kept.reindex(columns=[*RUN, "value", "stderr"]).astype({"value": "float64", "stderr": "float64"})
    return Goal(name, what, unit, kind, values, reasons)
