"""What to beware of when reading the results, each sentence computed from the summary of the runs.

The rules and their thresholds are fixed here, before any result; a sentence states a rule, the numbers, and which inits
fall under it. It never says why.
"""

from collections.abc import Iterable
from math import isnan
from typing import Any

import pandas as pd

from bai_pipeline.report.colours import display_name
from bai_pipeline.report.summary import EARLY_SHARE

SHORT_START = 0.75
"""An init starts short when its first responses have less than this share of the reference's length."""
RESOLVED = 2.0
"""A change is resolved when it exceeds this many standard errors over seeds."""
RESOLUTION = f"by more than {RESOLVED:g} standard errors over seeds"
REFERENCE = "paradigm_3"

Row = dict[str, Any]
"""A line of the summary."""


def short_starts(summary: pd.DataFrame, reference: str = REFERENCE) -> str:
    """Blends that start short have less length to lose."""
    lengths = dict(zip(summary["init"], summary["length_start"], strict=True))
    if reference not in lengths:
        return f"{display_name(reference)} was not run: whether the other inits start short cannot be said."
    others = {init: length for init, length in lengths.items() if init != reference}
    short = [
        f"{display_name(init)} ({length:.1f} tokens, {length / lengths[reference]:.2f})"
        for init, length in others.items()
        if length < SHORT_START * lengths[reference]
    ]
    head = f"{display_name(reference)} starts at {lengths[reference]:.1f} tokens. "
    if not others:
        return head + "No other init was run."
    if not short:
        return head + f"No other init starts below {SHORT_START} of that."
    return (
        head + f"Below {SHORT_START} of that start: {listed(short)}. For these, a flat or rising length does not show "
        "that a collapse was avoided: compare lengths relative to each init's own start, and controls that start long."
    )


def over_optimisation(summary: pd.DataFrame) -> str:
    """The score holds or rises while the true accuracy falls."""
    judged = _rows(summary.dropna(subset=["accuracy_change"]))
    if not judged:
        return "True accuracy was not recorded: over-optimization of the score cannot be seen in these runs."
    found = {
        f"{display_name(row['init'])} (score {_change(row, 'score')}, accuracy {_change(row, 'accuracy')})": row
        for row in judged
        if not _falls(row, "score") and _falls(row, "accuracy")
    }
    rule = f"Rule: the score does not fall and true accuracy falls, start to end, {RESOLUTION}. "
    return rule + _verdict(found)


def hockey_stick(summary: pd.DataFrame) -> str:
    """The score falls early and ends at or above its start."""
    judged = _rows(summary.dropna(subset=["score_dip"]))
    if not judged:
        return "No run has a second step: a dip of the score cannot be seen."
    found = {
        f"{display_name(row['init'])} (by {_signed(row, 'score_dip')})": row
        for row in judged
        if row["score_dip"] > _margin(row, "score_dip") and row["score_change"] >= 0
    }
    deepest = max(judged, key=lambda row: row["score_dip"])
    return (
        f"Rule: the mean score of the first {100 // EARLY_SHARE}% of the steps after the first lies below the first "
        f"step's, {RESOLUTION}, and the end at or above it. The largest first step minus early mean is "
        f"{_signed(deepest, 'score_dip')}, in {display_name(deepest['init'])}. "
    ) + _verdict(found)


def seeds_and_errors(summary: pd.DataFrame) -> str:
    """How much the errors are worth."""
    seeds = sorted({int(count) for count in summary["seeds"]})
    if seeds == [1]:
        return "One seed per init: no error over seeds can be given, and differences between inits are not resolved."
    counts = " or ".join(map(str, seeds))
    return f"{counts} seeds per init: an error over so few seeds is itself uncertain, and many comparisons are made."


def _rows(summary: pd.DataFrame) -> list[Row]:
    return [{str(column): value for column, value in row.items()} for row in summary.to_dict("records")]


def _margin(row: Row, column: str) -> float:
    """What a change must exceed: RESOLVED standard errors, 0 with one seed."""
    stderr = row[f"{column}_stderr"]
    return 0.0 if isnan(stderr) else RESOLVED * stderr


def _falls(row: Row, name: str) -> bool:
    return bool(row[f"{name}_change"] < -_margin(row, f"{name}_change"))


def _change(row: Row, name: str) -> str:
    start, end = row[f"{name}_start"], row[f"{name}_end"]
    return f"{start:.2f} → {end:.2f}, change {_signed(row, f'{name}_change')}"


def _signed(row: Row, column: str) -> str:
    stderr = row[f"{column}_stderr"]
    return f"{row[column]:+.3f}" + ("" if isnan(stderr) else f" ± {stderr:.3f}")


def _verdict(found: dict[str, Row]) -> str:
    """Which inits a rule holds for; one seed's are named apart, since noise alone may have put them there."""
    resolved = [text for text, row in found.items() if row["seeds"] > 1]
    single = [text for text, row in found.items() if row["seeds"] == 1]
    verdict = f"It holds for {listed(resolved)}." if resolved else "It holds for no init."
    if single:
        verdict += f" With one seed, and so no error to compare with: {listed(single)}."
    return verdict


def listed(parts: Iterable[str]) -> str:
    """Parts as in "a, b and c"."""
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last
