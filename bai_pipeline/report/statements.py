"""What to beware of when reading the results, each sentence computed from the runs or from what the detectors said.

The rules and their thresholds are fixed here, before any result; a sentence states a rule, the numbers, and which inits
fall under it. It never says why. Whether a run over-optimized its score or made a hockey stick is what its detector
says, here as everywhere on the page: there is no second rule for it.
"""

from collections.abc import Iterator

import pandas as pd

from bai_pipeline.dynamics import hockey_stick, over_optimization
from bai_pipeline.dynamics.sentences import listed
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.report.colours import display_name
from bai_pipeline.report.verdict_blocks import evidence_of, kind, verdict_sentence

SHORT_START = 0.75
"""An init starts short when its first responses have less than this share of the reference's length."""
REFERENCE = "paradigm_3"
NOT_DIAGNOSED = "No run was diagnosed for it."


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


def over_optimized(verdicts: pd.DataFrame) -> str:
    """Where the score no longer stands for what it is to measure."""
    return " ".join(
        _told(
            verdicts,
            over_optimization.DETECTOR,
            fall="accuracy_loss",
            of="True accuracy fell by {} since its best",
            caution="There a higher score is no sign of a better policy: compare accuracy and benchmarks.",
        )
    )


def hockey_sticks(verdicts: pd.DataFrame) -> str:
    """Where the score fell, recovered or not."""
    return " ".join(
        _told(
            verdicts,
            hockey_stick.DETECTOR,
            fall="decline",
            of="The score of all length buckets, or of one, fell by {} standard deviations of the first step's scores",
            caution="What a score ends at depends on where the run is ended.",
        )
    )


def seeds_and_errors(summary: pd.DataFrame) -> str:
    """How much the errors are worth."""
    seeds = sorted({int(count) for count in summary["seeds"]})
    if seeds == [1]:
        return "One seed per init: no error over seeds can be given, and differences between inits are not resolved."
    counts = " or ".join(map(str, seeds))
    return f"{counts} seeds per init: an error over so few seeds is itself uncertain, and many comparisons are made."


def _told(verdicts: pd.DataFrame, detector: str, *, fall: str, of: str, caution: str) -> Iterator[str]:
    """What a detector said of all runs, then the size of what it found; or, where it could tell nothing, why.

    Args:
        fall: the key of its evidence that says how much was lost.
        of: a sentence about that, `{}` for the numbers.
    """
    said = verdicts if verdicts.empty else verdicts[verdicts["detector"] == detector]
    if said.empty:
        yield NOT_DIAGNOSED
        return
    sentence = verdict_sentence(said)
    yield sentence[0].upper() + sentence[1:]
    found = said[said["verdict"].map(kind) == "bad"]
    if not found.empty:
        falls = sorted(_numbers(found["evidence"], fall))
        if falls:
            span = f"{falls[0]:.2f}" if len(falls) == 1 else f"{falls[0]:.2f} to {falls[-1]:.2f}"
            yield of.format(span) + "."
        yield caution
    elif set(said["verdict"]) == {UNDETERMINED} and said["reason"].nunique() == 1:
        yield str(said["reason"].iloc[0])


def _numbers(evidence: "pd.Series[str]", key: str) -> Iterator[float]:
    """A number of each run's evidence, where it is known."""
    for text in evidence:
        value = evidence_of(text).get(key)
        if isinstance(value, int | float):
            yield float(value)
