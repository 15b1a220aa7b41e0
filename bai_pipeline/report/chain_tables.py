"""Small tables of one setting over its chains: curves, effects by init, verdicts, and what the critic announced."""

import pandas as pd

from bai_pipeline.report.contrasts import interval, name_of
from bai_pipeline.report.curves import init_order
from bai_pipeline.report.judgements import numbers_text
from bai_pipeline.report.run_numbers import QUANTITIES, verdict_counts
from bai_pipeline.report.setting_results import UNTRAINED, SettingResults

CURVES = ("length_mean", "truncated_share", "score_mean", "accuracy", "kl_train_sample", "entropy", "stop_gap")
EFFECTS = ("length", "decline", "score_change", "accuracy_change", "benchmark")
"""Quantities of the table of effects."""
CRITIC = "critic_offset"


def chain_curves(results: SettingResults) -> pd.DataFrame:
    """Mean over chains of each chain's mean over its seeds, and the standard error of that mean (NaN with one chain).

    Returns:
        init, step, chains, and for every recorded metric METRIC and "METRIC sem".
    """
    metrics = [name for name in CURVES if name in results.runs.columns]
    if results.runs.empty or not metrics:
        return pd.DataFrame(columns=["init", "step", "chains"])
    per_chain = results.runs.groupby(["init", "step", "chain"])[metrics].mean().groupby(["init", "step"])
    table = per_chain.mean().join(per_chain.sem().add_suffix(" sem"))
    table = table[[column for name in metrics for column in (name, f"{name} sem")]]
    table.insert(0, "chains", per_chain.size())
    return table.reset_index()


def ordered_inits(numbers: pd.DataFrame) -> list[str]:
    """Paradigms, alphas ascending, then the models that PPO did not make."""
    inits = {str(init) for init in numbers["init"]}
    return sorted(inits, key=lambda init: (init in UNTRAINED, init_order(init)))


def effect_table(numbers: pd.DataFrame) -> pd.DataFrame:
    """One line per init: mean start and end of its length, and quantities with their intervals over chains, as text."""
    lines = []
    for init in ordered_inits(numbers):
        rows = numbers[numbers["init"] == init]
        line: dict[str, object] = {"init": name_of(init), "chains": rows["chain"].nunique(), "runs": len(rows)}
        per_chain = rows.groupby("chain")[["length_start", "length_end", *EFFECTS]].mean()
        lengths = per_chain[["length_start", "length_end"]].mean()
        known = lengths.notna().all()
        line["length (tokens)"] = f"{lengths['length_start']:.1f} → {lengths['length_end']:.1f}" if known else "–"
        for name in EFFECTS:
            quantity = QUANTITIES[name]
            found = interval(per_chain[name].astype("float64").dropna()).shown(quantity.unit)
            text = numbers_text(found, quantity.unit, signed=quantity.is_change) if found.chains else "–"
            line[quantity.words] = text
        lines.append(line)
    return pd.DataFrame(lines)


def verdict_table(numbers: pd.DataFrame) -> pd.DataFrame:
    """One line per init, one column per detector: "collapsed 7, healthy 2"; empty without verdicts."""
    detectors = [c.removeprefix("verdict ") for c in numbers.columns if str(c).startswith("verdict ")]
    inits = [init for init in ordered_inits(numbers) if init not in UNTRAINED]
    if not detectors:
        return pd.DataFrame()
    lines = []
    for init in inits:
        counts = {name: verdict_counts(numbers, name, init) for name in detectors}
        words = {name: ", ".join(f"{verdict} {n}" for verdict, n in found.items()) for name, found in counts.items()}
        lines.append({"init": name_of(init)} | {name: text or "–" for name, text in words.items()})
    return pd.DataFrame(lines)


def announcements(numbers: pd.DataFrame) -> pd.DataFrame:
    """What the critic's offset said of the first steps, and what the length did next, over all inits.

    Returns:
        verdict, shorter, longer: numbers of runs; empty where either is unknown.
    """
    column = f"verdict {CRITIC}"
    if column not in numbers.columns:
        return pd.DataFrame(columns=["verdict", "shorter", "longer"])
    known = numbers.dropna(subset=[column, "length_next"])
    signs = known.assign(shorter=known["length_next"] < 0, longer=known["length_next"] > 0)
    counts = signs.groupby(column)[["shorter", "longer"]].sum().astype("int64")
    return counts.rename_axis("verdict").reset_index()
