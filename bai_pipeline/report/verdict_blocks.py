"""What the detectors said: a table of inits and detectors, the reasons, and sentences that count.

The sentences are made by rules fixed here, before any result: any verdict is a finding but `UNDETERMINED` and those
that `dynamics.diagnosis` calls in order.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from bai_pipeline.dynamics.diagnosis import IN_ORDER
from bai_pipeline.dynamics.sentences import listed
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.report.blocks import Block, Cell, Column, Details, Hole, Kind, Table, Text
from bai_pipeline.report.cells import cell
from bai_pipeline.report.colours import display_name
from bai_pipeline.report.curves import init_order

DETECTORS = {
    "length_collapse": "Sequence Length Collapse",
    "reward_hockey_stick": "Reward Hockey Stick",
    "over_optimization": "Over-optimization",
    "critic_offset": "Critic offset",
    "kl_train_sample": "KL(training ‖ sampling)",
    "entropy_collapse": "Entropy collapse",
    "router_collapse": "Router collapse",
    "truncation": "Truncation",
}
"""Detector → its name on the page, in the order of the page."""
WORDS = {
    "collapsed": "collapsed",
    "healthy": "healthy",
    "truncating": "cut at the length limit",
    "within_limit": "within the limit",
    "hockey_stick": "declined and recovered",
    "decline": "declined, with no recovery yet",
    "steady": "steady",
    "spiking": "spiking",
    "volatile": "volatile",
    "over_optimized": "score and true accuracy part ways",
    "aligned": "score and true accuracy agree",
    "underestimates_long_prefixes": "underestimates long prefixes, which announces shortening",
    "overestimates_long_prefixes": "overestimates long prefixes, which announces growth",
    "calibrated": "calibrated",
}
NO_VERDICTS = Hole("Verdicts", "no run of this study has been diagnosed")


def verdict_blocks(verdicts: pd.DataFrame) -> list[Block]:
    """The table of verdicts, and folded below it the reasons of each run."""
    if verdicts.empty:
        return [NO_VERDICTS]
    names = _detectors(verdicts)
    inits = sorted(verdicts["init"].unique(), key=init_order)
    rows = []
    for number, init in enumerate(inits):
        of_init = verdicts[verdicts["init"] == init]
        cells = [_summary_cell(of_init[of_init["detector"] == name]) for name in names]
        seeds = sorted(of_init["seed"].unique())
        rows.append(
            [Cell(display_name(init), float(number)), Cell(", ".join(map(str, seeds)), float(len(seeds))), *cells]
        )
    columns = [Column("init"), Column("seed", True), *(Column(title(name), wraps=True) for name in names)]
    reasons = [_reasons(init, verdicts[verdicts["init"] == init], names) for init in inits]
    note = Text("In brackets: the seeds of a verdict, where the seeds of an initialization differ.")
    return [Table("Verdicts by initialization", columns, rows), note, *reasons]


def verdict_sentences(verdicts: pd.DataFrame) -> list[str]:
    """A sentence per detector: how many runs of which init it found something in, how many are well or unknown."""
    names = _detectors(verdicts)
    return [f"**{title(name)}:** {verdict_sentence(verdicts[verdicts['detector'] == name])}" for name in names]


def verdict_sentence(verdicts: pd.DataFrame) -> str:
    """The same of one detector, whose verdicts these are, without its name."""
    parts = []
    for verdict in _findings_first(verdicts["verdict"].unique()):
        found = verdicts[verdicts["verdict"] == verdict]
        count = f"{words(verdict)} in {len(found)} of {len(verdicts)} runs"
        parts.append(f"{count}: {_by_init(found, verdicts)}" if kind(verdict) == "bad" else count)
    return f"{'; '.join(parts)}."


def kind(verdict: str) -> Kind:
    """How a verdict is to be taken."""
    if verdict == UNDETERMINED:
        return "unknown"
    return "good" if verdict in IN_ORDER else "bad"


def title(detector: str) -> str:
    """A detector's name on the page."""
    return DETECTORS.get(detector, detector.replace("_", " ").capitalize())


def words(verdict: str) -> str:
    """A verdict in words."""
    return WORDS.get(verdict, verdict.replace("_", " "))


def _detectors(verdicts: pd.DataFrame) -> list[str]:
    """Those with verdicts, unknown ones last."""
    order = {name: number for number, name in enumerate(DETECTORS)}
    return sorted(map(str, verdicts["detector"].unique()), key=lambda name: (order.get(name, len(order)), name))


def _summary_cell(verdicts: pd.DataFrame) -> Cell:
    """One init and detector: each verdict with its seeds."""
    if verdicts.empty:
        return Cell("not diagnosed", kind="unknown")
    found = _findings_first(verdicts["verdict"].unique())
    parts = []
    for verdict in found:
        seeds = ", ".join(str(seed) for seed in sorted(verdicts.loc[verdicts["verdict"] == verdict, "seed"]))
        parts.append(Cell(verdict.replace("_", " ") + f" ({seeds})" * (len(found) > 1), kind=kind(verdict)))
    share = float((verdicts["verdict"].map(kind) == "bad").mean())
    return replace(parts[0], sort=share if kind(found[0]) != "unknown" else -1.0, more=tuple(parts[1:]))


def _reasons(init: str, verdicts: pd.DataFrame, names: Sequence[str]) -> Block:
    ordered = verdicts.assign(order=verdicts["detector"].map({name: i for i, name in enumerate(names)}))
    rows = [
        [
            cell(row["seed"]),
            Cell(title(str(row["detector"])), float(row["order"])),
            Cell(words(str(row["verdict"])), str(row["verdict"]), kind=kind(str(row["verdict"]))),
            cell(row["confidence"], ".3f"),
            cell(row["reason"]),
            Cell(_evidence(row["evidence"])),
        ]
        for row in ordered.sort_values(["seed", "order"]).to_dict("records")
    ]
    columns = [
        Column("seed", True),
        Column("detector"),
        Column("verdict", wraps=True),
        Column("confidence", True),
        Column("reason", prose=True),
        Column("evidence", prose=True),
    ]
    caption = f"Reasons, {display_name(init)}"
    return Details(caption, [Table(caption, columns, rows)])


def evidence_of(text: Any) -> dict[str, Any]:
    """The numbers of a verdict; none where the text is no JSON object."""
    try:
        values = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _evidence(text: Any) -> str:
    """JSON as "name value, …"; a text that is no JSON object as it is."""
    values = evidence_of(text)
    if not values:
        return "" if pd.isna(text) or text == "{}" else str(text)
    return ", ".join(f"{name} {f'{v:.4g}' if isinstance(v, float) else v}" for name, v in values.items())


def _findings_first(verdicts: Iterable[Any]) -> list[str]:
    order: dict[Kind, int] = {"bad": 0, "good": 1, "unknown": 2}
    return sorted(map(str, verdicts), key=lambda verdict: (order[kind(verdict)], verdict))


def _by_init(found: pd.DataFrame, judged: pd.DataFrame) -> str:
    parts = []
    for init in sorted(found["init"].unique(), key=init_order):
        of = int((judged["init"] == init).sum())
        parts.append(f"{display_name(init)} ({int((found['init'] == init).sum())} of {of})")
    return listed(parts)
