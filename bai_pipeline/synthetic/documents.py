"""The kinds of document that the base model is pretrained on.

Plain text without begin and end markers: whoever tokenizes a document adds them. Chats, which a base model sees as
careless dumps, carry the role markers <user> and <asst> as words.
"""

import random
from typing import Final

from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.tasks import (
    LABELS,
    Problem,
    brief_answer,
    direct_answer,
    long_answer,
    prompt_text,
    sample_training_problem,
    weighted_choice,
    without_markers,
)

NOISE_LETTERS: Final = LABELS[6:]
"""Letters of noise: those that label no operand of a problem with at most six."""


def sample_document(world: WorldSettings, rng: random.Random) -> str:
    """A document of a kind drawn by `document_mix`; no held-out problem is in it."""
    kind = weighted_choice(world.document_mix, rng)
    if kind == "facts":
        return facts(rng)
    if kind == "noise":
        return noise(rng)
    problem = sample_training_problem(world, rng)
    if kind == "chat":
        return f"<user> {prompt_text(problem)} <asst> {chat_answer(problem, world, rng)}"
    if kind == "direct":
        answer = direct_answer(problem)
    elif kind == "brief":
        answer = brief_answer(problem)
    else:
        answer = without_markers(long_answer(problem, rng, weighted_choice(world.verification_passes, rng)))
    return f"{prompt_text(problem)} : {answer}"


def chat_answer(problem: Problem, world: WorldSettings, rng: random.Random) -> str:
    """What follows <asst> in a chat document, of a kind drawn by `chat_mix`.

    "think" is a long answer with its markers and, as traces found in the wild are sloppier than an SFT set, one
    verification pass; "long" has no markers and passes as in documents.
    """
    kind = weighted_choice(world.chat_mix, rng)
    if kind == "noise":
        return " ".join(rng.choice(NOISE_LETTERS) for _ in range(rng.randint(3, 15)))
    if kind == "direct":
        return direct_answer(problem)
    if kind == "brief":
        return brief_answer(problem)
    if kind == "think":
        return long_answer(problem, rng, passes=1)
    return without_markers(long_answer(problem, rng, weighted_choice(world.verification_passes, rng)))


def facts(rng: random.Random) -> str:
    """Four to twelve equations between digits: sums and differences modulo 10 and maxima ("?")."""
    equations = []
    for _ in range(rng.randint(4, 12)):
        left, right = rng.randrange(10), rng.randrange(10)
        operator = rng.choice("+-?")
        value = {"+": (left + right) % 10, "-": (left - right) % 10, "?": max(left, right)}[operator]
        equations.append(f"{left} {operator} {right} = {value} ,")
    return " ".join(equations)


def noise(rng: random.Random) -> str:
    """Ten to forty letters of a Markov chain that mostly steps to the next letter, with some punctuation."""
    words: list[str] = []
    letter = rng.randrange(len(NOISE_LETTERS))
    for _ in range(rng.randint(10, 40)):
        letter = (letter + rng.choice((1, 1, 1, 5, 2))) % len(NOISE_LETTERS)
        words.append(NOISE_LETTERS[letter])
        if rng.random() < 0.1:
            words.append(rng.choice((".", ",", ";")))
    return " ".join(words)
