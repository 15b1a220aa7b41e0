"""One line per run of a setting: the quantities that claims are about.

Windows are fixed by the number n of steps, before any value is seen:

    start    the first step: responses of the initialization itself
    early    the first quarter of the steps after it
    middle   the fifth of the steps around the middle
    end      the last fifth of the steps

Runs with fewer steps than the setting's longest are left out (`incomplete_runs` names them), never extrapolated; runs
of fewer than MIN_STEPS steps have no windows apart from each other, and all NaN.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bai_pipeline.dynamics.buckets import score_change
from bai_pipeline.dynamics.sweeps import END_SHARE
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.report.setting_results import RUN, UNTRAINED, SettingResults

MIN_STEPS = 5
EARLY_SHARE = 4
"""The early phase is the first one in this many of the steps after the first step: fixed, so that noise is no dip."""
FACTOR = "factor"
"""Unit of a quantity that is a logarithm here, and is shown without it: a geometric mean."""
JUDGED_STEPS = int(DynamicsSettings().critic_steps)
"""First steps that the detector critic_offset reads; what it announces comes after them."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """A number of a run."""

    words: str
    equation: str
    unit: str
    is_change: bool = False
    """Whether its sign says in which direction."""


QUANTITIES = {
    "length": Quantity("length, end over start", "log(L_end / L_start), L the mean length", FACTOR),
    "length_first_half": Quantity("length, middle over start", "log(L_middle / L_start)", FACTOR),
    "length_second_half": Quantity("length, end over middle", "log(L_end / L_middle)", FACTOR),
    "length_early": Quantity("length, early over start", "log(L_early / L_start)", FACTOR),
    "length_next": Quantity(
        f"length, next quarter over first {JUDGED_STEPS} steps",
        f"log(mean L of the n/{EARLY_SHARE} steps from step {JUDGED_STEPS} on / mean L of the steps before)",
        FACTOR,
    ),
    "decline": Quantity(
        "decline of the score within length buckets, start to early",
        "−Σ_b (p_b + p'_b)/2 (m'_b − m_b) / s over buckets b, p their shares, m their mean scores, s the standard "
        "deviation of the first step's scores",
        "sd",
        is_change=True,
    ),
    "recovery": Quantity(
        "rise of the score within length buckets, early to end",
        "as the decline, early to end, positive upwards",
        "sd",
        True,
    ),
    "score_change": Quantity("score, end minus start", "(S_end − S_start) / s, S the mean score", "sd", True),
    "accuracy_start": Quantity("true accuracy at the start", "A_start", "share"),
    "accuracy_end": Quantity("true accuracy at the end", "A_end, A the share of right responses", "share"),
    "accuracy_change": Quantity("true accuracy, end minus start", "A_end − A_start", "share", True),
    "kl": Quantity("KL(training ‖ sampling), median of the steps", "log median_t KL_t", FACTOR),
    "kl_volatility": Quantity(
        "step-to-step change of log KL(training ‖ sampling)", "mean_t |log KL_{t+1} − log KL_t|", "log"
    ),
    "benchmark": Quantity("benchmark average", "mean score over the setting's benchmarks, greedy answers", "share"),
    "worse_side": Quantity(
        "the worse of length kept and accuracy kept",
        "min(L_end / L_start, benchmark average / that of the chain's reasoning SFT)",
        "ratio",
    ),
}


def run_numbers(results: SettingResults) -> pd.DataFrame:
    """Quantities of every complete run; rows of untrained models (seed -1) have a benchmark average only.

    Returns:
        chain, init, seed, steps, length_start, length_end (tokens), every quantity, and each detector's verdict as
        "verdict DETECTOR". NaN where a quantity was not recorded or is not defined.
    """
    lines = pd.DataFrame(_lines(results), columns=[*RUN, "steps", "length_start", "length_end", *QUANTITIES])
    return _with_verdicts(_with_benchmarks(lines, results), results)


def incomplete_runs(results: SettingResults) -> list[str]:
    """Runs with fewer steps than the longest, in words."""
    if results.runs.empty:
        return []
    steps = results.runs.groupby(RUN)["step"].count().rename("steps").reset_index()
    last = steps["steps"].max()
    return [
        f"chain {run['chain']}: {run['init']}, seed {run['seed']} has {run['steps']} of {last} steps"
        for run in steps[steps["steps"] < last].to_dict("records")
    ]


def _lines(results: SettingResults) -> list[dict[str, Any]]:
    if results.runs.empty:
        return []
    runs = {key: run.sort_values("step") for key, run in results.runs.groupby(RUN)}
    last = max(len(run) for run in runs.values())
    groups = {} if results.responses.empty else dict(iter(results.responses.groupby(RUN)))
    return [
        dict(zip(RUN, key, strict=True)) | _numbers(run, groups.get(key), results.bucket_width)
        for key, run in runs.items()
        if len(run) == last
    ]


def _numbers(run: pd.DataFrame, responses: pd.DataFrame | None, width: int) -> dict[str, float]:
    n = len(run)
    if n < MIN_STEPS:
        return {"steps": n}
    quarter, fifth = (n - 1) // EARLY_SHARE, n // END_SHARE
    early = slice(1, 1 + quarter)
    middle, end = slice((n - fifth) // 2, (n - fifth) // 2 + fifth), slice(n - fifth, n)
    metrics = ("length_mean", "score_mean", "accuracy", "kl_train_sample")
    length, score, accuracy, kl = (_column(run, name) for name in metrics)
    unit = float(_column(run, "score_std")[0])
    unit = unit if unit > 0 else np.nan
    log_length, log_kl = (np.log(np.where(values > 0, values, np.nan)) for values in (length, kl))

    def log_mean(window: slice) -> float:
        mean = float(length[window].mean())
        return float(np.log(mean)) if mean > 0 else np.nan

    numbers = {
        "steps": n,
        "length_start": float(length[0]),
        "length_end": float(length[end].mean()),
        "length": log_mean(end) - log_length[0],
        "length_first_half": log_mean(middle) - log_length[0],
        "length_second_half": log_mean(end) - log_mean(middle),
        "length_early": log_mean(early) - log_length[0],
        "length_next": log_mean(slice(JUDGED_STEPS, JUDGED_STEPS + n // EARLY_SHARE)) - log_mean(slice(JUDGED_STEPS)),
        "score_change": (score[end].mean() - score[0]) / unit,
        "accuracy_start": accuracy[0],
        "accuracy_end": accuracy[end].mean(),
        "accuracy_change": accuracy[end].mean() - accuracy[0],
        "kl": float(np.median(log_kl)),
        "kl_volatility": float(np.abs(np.diff(log_kl)).mean()),
    }
    if responses is not None:
        steps = run["step"].to_numpy()
        windows = [responses[responses["step"].isin(steps[w])].dropna(subset=["score"]) for w in (slice(1), early, end)]
        if not any(window.empty for window in windows):
            first, soon, final = windows
            numbers["decline"] = -score_change(first, soon, width).within / unit
            numbers["recovery"] = score_change(soon, final, width).within / unit
    return {name: float(value) for name, value in numbers.items()}


def _column(run: pd.DataFrame, name: str) -> Floats:
    if name not in run.columns:
        return np.full(len(run), np.nan)
    return run[name].to_numpy(dtype=np.float64)


def _with_benchmarks(lines: pd.DataFrame, results: SettingResults) -> pd.DataFrame:
    """A model has an average only if it has a score on every benchmark of the setting."""
    if results.scores.empty:
        return lines
    scored = results.scores.dropna(subset=["score"]).rename(columns={"model": "init"})
    count = scored["benchmark"].nunique()
    averages = scored.groupby(RUN)["score"].agg(["mean", "count"])
    average = averages["mean"].where(averages["count"] == count).rename("benchmark").reset_index()
    table = lines.drop(columns="benchmark").merge(average, on=RUN, how="left")
    reasoning = average[average["init"] == "reasoning_sft"].set_index("chain")["benchmark"]
    kept = table["benchmark"] / table["chain"].map(reasoning).where(lambda value: value > 0)
    table["worse_side"] = np.minimum(np.exp(table["length"].astype("float64")), kept.astype("float64"))
    return pd.concat([table, average[average["init"].isin(UNTRAINED)]], ignore_index=True)


def _with_verdicts(table: pd.DataFrame, results: SettingResults) -> pd.DataFrame:
    if results.verdicts.empty:
        return table
    wide = results.verdicts.pivot(index=RUN, columns="detector", values="verdict").add_prefix("verdict ")
    return table.merge(wide.reset_index(), on=RUN, how="left")


def verdict_counts(numbers: pd.DataFrame, detector: str, init: str) -> dict[str, int]:
    """How many complete runs of an init have each verdict of a detector, the most frequent first."""
    column = f"verdict {detector}"
    if column not in numbers.columns:
        return {}
    counts = numbers.loc[numbers["init"] == init, column].dropna().value_counts()
    return {str(verdict): int(count) for verdict, count in counts.items()}
