"""Mathematical expressions in texts, compared by value with Hugging Face's math-verify."""

from typing import Any


def last_expressions(text: str) -> list[Any]:
    """The last mathematical expression of a text as math-verify reads it, if it has one; a \\boxed{} one goes first.

    Fractions, decimals, sets, intervals and symbolic expressions are understood.
    """
    from math_verify import parse

    return list(parse(text))


def gold_expressions(answer: str) -> list[Any]:
    """A reference answer: a number or an expression in LaTeX."""
    return last_expressions(f"${answer}$") or last_expressions(answer)


def same_value(gold: list[Any], found: list[Any]) -> bool:
    """Whether an expression that was found has the value of the reference."""
    from math_verify import verify

    return bool(verify(gold, found))


def boxed(text: str) -> str | None:
    """What the last \\boxed{} (or \\fbox{}) of a text holds, braces within it balanced."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[start:].partition("ed" if text.startswith("\\boxed", start) else "box")[2].lstrip()
    if not rest.startswith("{"):
        return rest.split("$")[0].split()[0] if rest.split("$")[0].split() else None
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:place].strip()
    return None
