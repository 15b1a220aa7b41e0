"""Verifiers: functions that tell whether a response is right, by the name in a prompt's `verifier` column."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bai_pipeline.mathematics import gold_expressions, last_expressions, same_value
from bai_pipeline.synthetic.tasks import can_be_right, verify
from bai_pipeline.synthetic.world_tables import VERIFIER


@dataclass(frozen=True)
class Verifier:
    """How responses to a prompt are judged."""

    is_correct: Callable[[str, str], bool]
    """(response text, answer) -> right?"""
    accepts: Callable[[str], bool]
    """Whether there can be a right response to a prompt with this answer."""
    expects: str
    """What an answer has to be, in words."""


def math_is_correct(response: str, answer: str) -> bool:
    """Whether the last mathematical expression of a response equals the answer (Hugging Face's math-verify).

    Fractions, decimals, sets, intervals and symbolic expressions are compared by value; a \\boxed{} one goes first.
    """
    return same_value(gold_expressions(answer), last_expressions(response))


def math_accepts(answer: str) -> bool:
    """Whether the answer can be read as mathematics."""
    return bool(answer.strip()) and bool(gold_expressions(answer))


VERIFIERS: Mapping[str, Verifier] = {
    VERIFIER: Verifier(verify, can_be_right, "one digit"),
    "math": Verifier(math_is_correct, math_accepts, "a number or an expression in LaTeX"),
}
