"""Procedural problems with one-digit answers, ways to answer them, and the check of an answer.

A problem is a task over one-digit operands that carry letter labels, as in "sum a 4 b 7". The labels make each step
of a worked answer an easy look-up ("b 4 + 7 = 1 ,": take in operand b, running value 4). Text is words separated by
single spaces, so that a word is a token.
"""

import random
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from bai_pipeline.settings import WorldSettings

Task = Literal["sum", "alt", "max"]
TASKS: Final[tuple[Task, ...]] = get_args(Task)
LABELS: Final = "abcdefghijkl"
"""Names of the operands, in order; a problem has at most this many."""

_FINAL_ANSWER = re.compile(r"(?:^| )ans (\d)$")
_Choice = TypeVar("_Choice")


@dataclass(frozen=True)
class Problem:
    """A task and its operands, each 0 to 9."""

    task: Task
    operands: tuple[int, ...]


def weighted_choice(shares: Mapping[_Choice, float], rng: random.Random) -> _Choice:
    """One key of `shares`, drawn in proportion to its value."""
    return rng.choices(list(shares), list(shares.values()))[0]


def sample_problem(world: WorldSettings, rng: random.Random) -> Problem:
    """Any problem of the world: a task by its weight, a uniform number of uniform operands."""
    task = weighted_choice(world.task_weights, rng)
    count = rng.randint(world.operands_min, world.operands_max)
    return Problem(task, tuple(rng.randrange(10) for _ in range(count)))


def sample_training_problem(world: WorldSettings, rng: random.Random) -> Problem:
    """A problem that is not held out."""
    while True:
        problem = sample_problem(world, rng)
        if not is_held_out(problem, world):
            return problem


def is_held_out(problem: Problem, world: WorldSettings) -> bool:
    """Whether the problem is kept out of all training data: one in `held_out_modulus`, by the CRC-32 of its text."""
    return zlib.crc32(prompt_text(problem).encode("ascii")) % world.held_out_modulus == 0


def solve(problem: Problem) -> int:
    """The answer: the sum or the alternating sum x0 - x1 + x2 - … modulo 10, or the maximum."""
    if problem.task == "max":
        return max(problem.operands)
    signs = (1, -1) if problem.task == "alt" else (1, 1)
    return sum(signs[index % 2] * operand for index, operand in enumerate(problem.operands)) % 10


def prompt_text(problem: Problem) -> str:
    """The problem as a user states it: "sum a 4 b 7"."""
    labelled = (f"{LABELS[index]} {operand}" for index, operand in enumerate(problem.operands))
    return " ".join((problem.task, *labelled))


def parse_prompt(text: str) -> Problem | None:
    """The problem that `prompt_text` states, or None if the text states none."""
    task, *words = text.split(" ")
    labels, digits = words[::2], words[1::2]
    if task not in TASKS or not digits or labels != list(LABELS[: len(digits)]):
        return None
    if not all(re.fullmatch("[0-9]", digit) for digit in digits):
        return None
    return Problem(task, tuple(map(int, digits)))


def direct_answer(problem: Problem) -> str:
    """The answer alone: "ans 1"."""
    return f"ans {solve(problem)}"


def brief_answer(problem: Problem) -> str:
    """One pass of steps, then the answer: "b 4 + 7 = 1 , ans 1"."""
    return " ".join((*_steps(problem), direct_answer(problem)))


def long_answer(problem: Problem, rng: random.Random, passes: int) -> str:
    """A chain of thought between <think> markers that verifies itself `passes` times, then the answer.

    The verifications alternate between backward (last operand first) and forward.
    """
    words = ["<think>", *_steps(problem)]
    for index in range(passes):
        words += [rng.choice(("wait", "hmm")), "check", *_steps(problem, backward=index % 2 == 0)]
    return " ".join((*words, "ok", "so", str(solve(problem)), "</think>", direct_answer(problem)))


def without_markers(answer: str) -> str:
    """A long answer without its <think> markers, as plain documents have it."""
    return " ".join(word for word in answer.split(" ") if word not in ("<think>", "</think>"))


def extract_answer(text: str) -> str | None:
    """The digit of a response that ends with "ans 7"; None if it ends otherwise."""
    match = _FINAL_ANSWER.search(text)
    return match.group(1) if match else None


def verify(response_text: str, answer: str) -> bool:
    """Whether the final answer of a response is `answer`."""
    return extract_answer(response_text) == answer


def can_be_right(answer: str) -> bool:
    """Whether `verify` finds any response right whose answer should be `answer`: only one digit can be."""
    return verify(f"ans {answer}", answer)


def _steps(problem: Problem, backward: bool = False) -> list[str]:
    """The words of one pass over the operands, one equation each: "LABEL LEFT OPERATOR RIGHT = RESULT ,".

    An alternating sum goes forward by + and - in turn, and backward by `operand - running value`, as in Horner's rule.
    """
    order = list(range(len(problem.operands)))
    if backward:
        order.reverse()
    value = problem.operands[order[0]]
    words: list[str] = []
    for index in order[1:]:
        operand = problem.operands[index]
        left, right = value, operand
        if problem.task == "max":
            operator, value = "?", max(left, right)
        elif problem.task == "sum" or (index % 2 == 0 and not backward):
            operator, value = "+", (left + right) % 10
        else:
            if backward:
                left, right = right, left
            operator, value = "-", (left - right) % 10
        words += [LABELS[index], str(left), operator, str(right), "=", str(value), ","]
    return words
