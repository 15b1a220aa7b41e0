"""Reading what a judge says.

The labels are ArenaHard's (https://github.com/lmarena/arena-hard-auto) and MixEval's (https://github.com/Psycoy/MixEval).
Nothing is guessed: an answer with two different labels, or with one that does not exist, is unparsable. MixEval's own
scorer takes the first number, and a random score where it finds none; here both are unparsable.
"""

import re
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PAIR_LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
PAIR_PATTERN = re.compile(r"\[\[([AB<>=\s]+)\]\]")
MIRRORED = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}
"""Other ways of writing a label, which ArenaHard takes too."""

SCORE_PATTERN = re.compile(r"\[\[\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\]\]")

THINKING_STARTS, THINKING_ENDS = "<think>", "</think>"


@dataclass(frozen=True)
class Reading(Generic[T]):
    """The label of an answer."""

    value: T | None
    """None: there is none, there are several, or it does not exist."""
    found: bool
    """False: nothing in the answer looks like a label."""


def spoken(text: str) -> str:
    """A reasoning judge's answer without its thinking, which weighs labels that are not its verdict."""
    _, end, answer = text.rpartition(THINKING_ENDS)
    if not end and text.lstrip().startswith(THINKING_STARTS):
        return ""
    return answer


def read_pair_label(text: str) -> Reading[str]:
    """The verdict on a pair, one of `PAIR_LABELS`; all labels in the text must be the same."""
    labels = {"".join(label.split()) for label in PAIR_PATTERN.findall(text)}
    verdicts = {MIRRORED.get(label, label) for label in labels}
    if len(verdicts) == 1 and verdicts <= set(PAIR_LABELS):
        return Reading(verdicts.pop(), found=True)
    return Reading(None, found=bool(verdicts))


def read_score(text: str) -> Reading[float]:
    """The score of a free-form answer, in [0, 1]; all scores in the text must be the same."""
    scores = {float(score) for score in SCORE_PATTERN.findall(text)}
    if len(scores) == 1 and 0.0 <= min(scores) <= 1.0:
        return Reading(scores.pop(), found=True)
    return Reading(None, found=bool(scores))
