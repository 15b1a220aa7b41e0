"""From effects to statuses: what each claim comes to in each setting.

In this order, the first that applies:

1. not reproduced: a criterion fails (of a claim whose premise was not reproduced here: one that can refute it alone).
2. not testable at this scale: no result could decide it; the data of a criterion are missing or of one chain; the
   premise was not reproduced here; a criterion is open, its interval holds both answers.
3. reproduced: every criterion holds.

Criteria of a claim are not corrected for their number: a conjunction that holds by every one of its 95 % intervals
errs in at most 2.5 % of cases (Berger 1982); that one of k criteria fails by chance happens in up to k times 2.5 %. Nor
are claims and settings corrected for being many: of 40 criteria whose effect lies exactly on its threshold, one would
hold by chance and one would fail.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

import pandas as pd

from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.report.claims import CLAIMS, FINDINGS, Claim, Criterion
from bai_pipeline.report.contrasts import Interval, Setting, interval
from bai_pipeline.report.run_numbers import FACTOR, QUANTITIES, verdict_counts

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_TESTABLE = "not testable at this scale"
HOLDS, FAILS, OPEN = "holds", "fails", "open"
NO_DATA = "no data"
ONE_CHAIN = "one chain"


@dataclass(frozen=True)
class Measured:
    """A criterion with its effect in one setting."""

    criterion: Criterion
    words: str
    interval: Interval
    """Without logarithms."""
    runs: int
    answer: str
    """holds, fails, open, one chain, no data."""
    absent: str
    """Why there is no data."""

    @property
    def unit(self) -> str:
        return QUANTITIES[self.criterion.effect.quantity].unit

    @property
    def numbers(self) -> str:
        """Effect and interval."""
        return numbers_text(self.interval, self.unit, signed=self.criterion.effect.is_difference)

    def text(self) -> str:
        """Effect, interval, and what was claimed."""
        if self.answer == NO_DATA:
            return self.absent
        claim = f"claimed {self.criterion.side} {self.criterion.threshold:g}: {self.answer}"
        return f"{self.words}: {self.numbers}, {claim}"


@dataclass(frozen=True)
class Judgement:
    """A claim in a setting."""

    claim: Claim
    setting: str
    status: str
    reason: str
    """Why it is not testable, "" otherwise."""
    measured: tuple[Measured, ...]
    counts: str
    """How many runs have the verdicts that are told beside."""

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        head = self.status + (f" ({self.reason})" if self.reason else "")
        parts = [m.text() for m in self.measured] + ([self.counts] if self.counts else [])
        return f"{head}: {'; '.join(parts)}." if parts else f"{head}."


def judge(settings: Mapping[str, Setting], claims: Sequence[Claim] = (*CLAIMS, *FINDINGS)) -> list[Judgement]:
    """Every claim in every setting that it is about, settings in order; a premise stands before what needs it."""
    found: list[Judgement] = []
    for name in settings:
        statuses: dict[str, str] = {}
        for claim in claims:
            if not claim.settings or name in claim.settings:
                judgement = _judge(claim, settings, name, statuses)
                statuses[claim.id] = judgement.status
                found.append(judgement)
    return found


def table_of(judgements: Sequence[Judgement]) -> pd.DataFrame:
    """One row per criterion: setting, claim, source, status, reason, criterion, words, effect, low, high, unit, side,
    threshold, chains, runs, answer, sentence."""
    columns = ["setting", "claim", "source", "status", "reason", "criterion", "words", "effect", "low", "high", "unit"]
    columns += ["side", "threshold", "chains", "runs", "answer", "sentence"]
    return pd.DataFrame([row for judgement in judgements for row in _rows(judgement)], columns=columns)


def numbers_text(found: Interval, unit: str, *, signed: bool) -> str:
    """ "0.58 [0.45, 0.74]", with the unit where it has a name of its own."""
    sign = "+" if signed and unit != FACTOR else ""
    text = f"{found.effect:{sign}.2f}"
    text += f" [{found.low:{sign}.2f}, {found.high:{sign}.2f}]" if found.chains > 1 else " (one chain: no interval)"
    return f"{text} sd" if unit == "sd" else text


def _judge(claim: Claim, settings: Mapping[str, Setting], name: str, statuses: Mapping[str, str]) -> Judgement:
    measured = tuple(_measure(criterion, settings, name) for criterion in claim.criteria)
    premise = claim.premise is None or statuses.get(claim.premise) == REPRODUCED
    status, reason = _status(claim, measured, premise)
    return Judgement(claim, name, status, reason, measured, "; ".join(_counts(claim, settings[name])))


def _status(claim: Claim, measured: Sequence[Measured], premise: bool) -> tuple[str, str]:
    if any(m.answer == FAILS and (premise or m.criterion.alone) for m in measured):
        return NOT_REPRODUCED, ""
    if claim.untestable:
        return NOT_TESTABLE, claim.untestable
    for answer in (NO_DATA, ONE_CHAIN):
        if any(m.answer == answer for m in measured):
            return NOT_TESTABLE, answer
    if not premise:
        return NOT_TESTABLE, f"its premise {claim.premise} was not reproduced here"
    if any(m.answer == OPEN for m in measured):
        return NOT_TESTABLE, "the interval holds both answers"
    return REPRODUCED, ""


def _measure(criterion: Criterion, settings: Mapping[str, Setting], name: str) -> Measured:
    found = criterion.effect.per_chain(settings, name)
    unit = QUANTITIES[criterion.effect.quantity].unit
    over_chains = interval(found.values)
    threshold = log(criterion.threshold) if unit == FACTOR else criterion.threshold
    return Measured(
        criterion=criterion,
        words=criterion.effect.words(),
        interval=over_chains.shown(unit),
        runs=found.runs,
        answer=answer(over_chains, criterion.side, threshold),
        absent=found.absent,
    )


def answer(found: Interval, side: str, threshold: float) -> str:
    """Whether an interval lies on the claimed side of the threshold: holds, fails, open, one chain, no data."""
    if found.chains < 2:
        return ONE_CHAIN if found.chains else NO_DATA
    above, below = found.low > threshold, found.high < threshold
    if above or below:
        return HOLDS if above == (side == "above") else FAILS
    return OPEN


def _counts(claim: Claim, setting: Setting) -> Iterator[str]:
    for side, detector, verdict in claim.counts:
        counts = verdict_counts(setting.numbers, detector, setting.init(side))
        if counts:
            called = f"{counts.get(verdict, 0)} of {sum(counts.values())} runs of {setting.label(side)}"
            undetermined = counts.get(UNDETERMINED)
            yield f"{detector} calls {called} {verdict}" + (f" ({undetermined} undetermined)" if undetermined else "")


def _rows(judgement: Judgement) -> Iterator[dict[str, object]]:
    claim = judgement.claim
    head: dict[str, object] = {
        "setting": judgement.setting,
        "claim": claim.id,
        "source": "paper" if claim.of_paper else "own",
        "status": judgement.status,
        "reason": judgement.reason,
        "sentence": judgement.sentence,
    }
    if not judgement.measured:
        yield head
    for m in judgement.measured:
        yield head | {
            "criterion": m.criterion.effect.equation(),
            "words": m.words,
            "effect": m.interval.effect,
            "low": m.interval.low,
            "high": m.interval.high,
            "unit": m.unit,
            "side": m.criterion.side,
            "threshold": m.criterion.threshold,
            "chains": m.interval.chains,
            "runs": m.runs,
            "answer": m.answer,
        }
