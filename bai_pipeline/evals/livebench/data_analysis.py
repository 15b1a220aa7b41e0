"""Data analysis: types of columns, join mappings between tables. Reformatted tables: see `tables`.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/data_analysis.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import Any

from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import between, boxed, no_answer, without_latex
from bai_pipeline.evals.livebench.schema import Fault, fault, truth_faults

_FENCES = ("```python", "```json", "```")
_QUOTED_TEXT = re.compile(r"\\text\{['\"]([^{}]*)['\"]\}")


def cta(row: Row, response: str) -> Grade:
    """The class of a column: 1 if the response, or what its last box holds, ends with it.

    Compared are letters, digits and underscores, without regard to case.
    """
    text: str | None = response
    if "\\boxed{" in response:
        box = boxed(response)
        text = None if box is None else without_latex(box)
    if text is None or not _word(text):
        return no_answer("no class")
    return Grade(float(_word(text).endswith(_word(row["ground_truth"]))), text.strip())


def tablejoin(row: Row, response: str) -> Grade:
    """A mapping of columns: the F1 of its pairs, rounded to two decimals.

        F1 = 2 tp / (2 tp + fp + fn)

    A wrong column for one that has a partner is a false positive and a false negative. The mapping is a Python literal:
    in the last <solution> tags, in code fences, in a box, or the whole response; a column mapped to None is left out.
    """
    truth: dict[Any, Any] = ast.literal_eval(row["ground_truth"])
    tagged = between(response, "<solution>", "</solution>", lines=True)
    found = _mapping(tagged[-1].strip() if tagged else response)
    if not found:
        return no_answer("no mapping of columns")
    right = sum(bool(truth.get(name)) and truth[name] == partner for name, partner in found.items())
    wrong = len(found) - right
    missed = sum(bool(truth.get(name)) and truth[name] != partner for name, partner in found.items())
    missed += sum(not found.get(name) for name in truth)
    score = round(2 * right / (2 * right + wrong + missed), 2)
    return Grade(score, repr(found), detail=f"{right} of {len(truth)} pairs right, {wrong} wrong")


def tablejoin_faults(row: Row) -> Iterator[Fault]:
    """Faults of a tablejoin row: the ground truth is a mapping of column names."""
    yield from truth_faults(row)
    literals = _literals(row["ground_truth"]) if isinstance(row.get("ground_truth"), str) else []
    if not literals or not isinstance(literals[0], dict) or not literals[0]:
        yield fault(row, "ground_truth", "a dictionary of column names, as a Python literal")


def _word(text: str) -> str:
    return re.sub(r"\W", "", text.lower())


def _mapping(text: str) -> dict[Any, Any]:
    """The dictionary that a text gives, without the keys of None; empty if it gives none."""
    literals = _literals(text) or _literals(_code(text).replace("null", "None"))
    if not literals or not isinstance(literals[0], dict):
        return {}
    return {name: partner for name, partner in literals[0].items() if partner is not None}


def _code(text: str) -> str:
    flat = text.replace("\n", "")
    for fence in _FENCES:
        if blocks := between(flat, fence, "```"):
            return blocks[-1]
    if "\\boxed" in flat and (box := boxed(flat)) is not None:
        return _QUOTED_TEXT.sub(r"'\1'", box).replace("\\", "")
    return text


def _literals(text: str) -> list[Any]:
    """The value of a text that is a Python literal; nothing for any other text. Nothing in it is executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler: a backslash that escapes nothing
            return [ast.literal_eval(text)]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return []
