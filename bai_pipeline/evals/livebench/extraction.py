"""Where LiveBench looks for answers: between tags or fences, in bold, in a LaTeX box, on the last line.

The published rules are regular expressions over whole responses. These functions find the same, but in time that grows
with the length of a response, whatever is in it.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results.
"""

import re
from collections.abc import Sequence

from bai_pipeline.evals.grades import Grade

_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_BOXES = ("\\boxed", "\\fbox")


def between(text: str, opening: str, closing: str, *, lines: bool = False) -> list[str]:
    """What stands between each `opening` and the next `closing`, from left to right.

    Args:
        text: a response.
        opening, closing: not empty.
        lines: what is found may have line breaks in it; else an `opening` without `closing` on its line is none.
    """
    found = []
    close = line_end = -1
    start = text.find(opening)
    while start >= 0:
        inside = start + len(opening)
        if close < inside:
            close = text.find(closing, inside)
            if close < 0:
                break
        if line_end < inside:
            line_end = -1 if lines else text.find("\n", inside)
            line_end = len(text) if line_end < 0 else line_end
        if close < line_end:
            found.append(text[inside:close])
            start = text.find(opening, close + len(closing))
        else:
            start = text.find(opening, start + 1)
    return found


def solutions(text: str) -> list[str]:
    """The contents of <solution> tags, each on one line; of </solution> … </solution> where there are none."""
    return between(text, "<solution>", "</solution>") or between(text, "</solution>", "</solution>")


def bold(text: str) -> list[str]:
    """Passages between double asterisks with no asterisk in them."""
    return _BOLD.findall(text)


def boxed(text: str) -> str | None:
    r"""What the last \boxed{…} (else the last \fbox{…}) holds, dollar signs removed; None: no box that is closed.

    "\boxed 5$" holds what is before the dollar sign, and goes before boxes with braces.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    name = next((box for box in _BOXES if box in text), None)
    if name is None:
        return None
    inside = text.rfind(name) + len(name)
    if not text.startswith("{", inside):
        return None
    depth = 0
    for match in re.compile("[{}]").finditer(text, inside):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[inside + 1 : match.start()].replace("$", "")
    return None


def without_latex(box: str) -> str:
    r"""The content of a box without \text{}, closing braces and backslashes."""
    return box.replace("\\text{", "").replace("}", "").replace("\\", "")


def last_line(text: str) -> str:
    """The last line of a response that is not blank; "" if all are."""
    return text.strip().rpartition("\n")[2]


def edit_distance(first: Sequence[object], second: Sequence[object]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements that make one of the other."""
    row = list(range(len(second) + 1))
    for place, item in enumerate(first, start=1):
        diagonal, row[0] = row[0], place
        for index, other in enumerate(second, start=1):
            diagonal, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, diagonal + (item != other))
    return row[-1]


def no_answer(detail: str) -> Grade:
    """The grade of a response in which no answer was found."""
    return Grade(0.0, None, detail=detail)
