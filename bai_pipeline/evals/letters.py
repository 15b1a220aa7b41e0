"""The letter that a response to a multiple-choice question settles on."""

import re
import string
from collections.abc import Sequence

from bai_pipeline.evals.grades import Grade

_WRAPPED = r"[\s*_$({\[]*(?:\\(?:boxed|text|mathrm|mathbf)\s*\{\s*)*[({\[]*"
_END = r"(?![A-Za-z0-9])"


def option_letters(count: int) -> str:
    """The letters of `count` options: "ABCD" for four."""
    return string.ascii_uppercase[:count]


def listed_options(options: Sequence[str]) -> str:
    """The options a line each, with their letters."""
    letters = option_letters(len(options))
    return "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))


def letter_grade(answer: str, options: Sequence[str], right: str, detail: str = "") -> Grade:
    """Whether an answer settles on the right letter."""
    letter = chosen_letter(answer, options)
    return Grade(float(letter == right), letter, detail=detail)


def chosen_letter(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; None if it names none.

    In this order: the last "answer is X" or "answer: X", the last \\boxed{X}, a last line that is a letter alone, and a
    last line that is the text of one option. X may stand in brackets, Markdown or LaTeX wrapping. A lower-case letter
    counts only in brackets or \\boxed{}: "the answer is a number" names no option.

    Args:
        answer: without its thinking part.
    """
    letters = option_letters(len(options))
    named = rf"{_WRAPPED}([{letters}]){_END}"
    for pattern in (
        rf"(?i:answer|(?:correct|right|best)\s+(?:option|choice))\s*(?i:is|would\s+be|must\s+be)?[\s*_]*:?{named}",
        rf"(?i:answer)\s+is\s*:?\s*\(([{letters}{letters.lower()}])\)",
        rf"\\boxed\s*\{{\s*(?:\\(?:text|mathrm|mathbf)\s*\{{\s*)?\(?([{letters}{letters.lower()}])\)?\s*\}}",
    ):
        if found := re.findall(pattern, answer):
            return str(found[-1]).upper()
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    if not lines:
        return None
    last = lines[-1]
    if alone := re.fullmatch(rf"[\W_]*([{letters}])(?:[.):*_\]]+.*)?", last):
        return alone.group(1)
    same = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if _plain(last) == _plain(option) and _plain(option)
    ]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return re.sub(r"[\s*_$.]+", " ", text).strip().casefold()
