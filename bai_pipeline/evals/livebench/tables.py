"""Data analysis: tables in another format, read with pandas.

Source: https://github.com/LiveBench/LiveBench, livebench/process_results/data_analysis/tablereformat.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any, Final

import pandas as pd

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import between, no_answer
from bai_pipeline.evals.livebench.schema import Fault, fault, question_of, truth_faults

TOLERANCE: Final = 1e-6
"""Of two numbers that are equal."""
COLUMNS_LIMIT: Final = 1000
"""Columns of a CSV or TSV table that is still read."""
TRAILING_LINES: Final = 500
"""Lines after a table that are looked at to find where it ends."""

_FORMATS = re.compile(r"Please convert the Input Table from (\w+) format to (\w+) format")
_INTRODUCTION = re.compile(r"\s*(?:Here|Input)\b.*?\b(?:format|table)\s*[:)]\s*", re.IGNORECASE)
_SEPARATORS: Final = {"csv": ",", "tsv": "\t"}
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, SyntaxError),
    *(NotImplementedError, RecursionError, pd.errors.InvalidIndexError),
)
"""What pandas and its parsers raise for a text that is no table."""


def tablereformat(row: Row, response: str) -> Grade:
    """A table in another format: 1 if columns, number of rows and all values in their order are the true ones.

    The order of the columns does not count, nor white space around texts; numbers may differ by 1e-6. The table is in
    the last <solution> tags, in code fences, or the whole response but for an introduction ("Here is the table:"). A
    CSV, TSV or JSONL table may also stand anywhere in the response, at the line that is its header.

    Raises:
        EvaluationError: the ground truth cannot be read.
    """
    form = _target(row)
    truth = _read(form, row["ground_truth"])
    if truth is None:
        raise EvaluationError(
            f"question {row['question_id']}: expected a ground truth that pandas {pd.__version__} reads as {form}; "
            f"the question was not graded"
        )
    text = _table_text(response)
    if not text:
        return no_answer("no table")
    table = _read(form, text)
    right = table is not None and _is_same(table, truth)
    if not right and (form in ("csv", "jsonl") or (form == "tsv" and table is None)):
        inner = _jsonl_in(text, truth) if form == "jsonl" else _separated_in(text, truth, form)
        right = inner is not None and _is_same(inner, truth)
        table = inner if table is None else table
    return Grade(float(right), text, detail="" if table is not None else f"no {form} table could be read")


def tablereformat_faults(row: Row) -> Iterator[Fault]:
    """Faults of a tablereformat row: the question names the formats, the ground truth is a text."""
    yield from truth_faults(row)
    if _target(row) not in _READERS:
        yield fault(row, "turns", f"a question with {_FORMATS.pattern!r}, to one of {', '.join(_READERS)}")


def _target(row: Row) -> str:
    match = _FORMATS.search(question_of(row))
    return match.group(2).lower() if match is not None else ""


def _table_text(response: str) -> str:
    """The part of a response that may be the table."""
    if tagged := between(response, "<solution>", "</solution>", lines=True):
        response = tagged[-1].strip()
    fenced = between(response, "```json\n", "```", lines=True) or between(response, "```html\n", "```", lines=True)
    if fenced:
        text = fenced[-1].strip()
    else:
        if response.startswith("```") and "\n" in response:
            response = response.partition("\n")[2]
        text = response.replace("&amp;", "&").replace("```", "").strip()
    introduction = _INTRODUCTION.match(text)
    return text[introduction.end() :].strip() if introduction is not None else text


def _read(form: str, text: str) -> pd.DataFrame | None:
    """The table of a text; None for a text that is none in this format."""
    for reader in _READERS[form]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pandas: columns of mixed types, rows that are too long
                return reader(StringIO(text))
        except _UNREADABLE:
            continue
    return None


def _read_html(source: StringIO) -> pd.DataFrame:
    try:
        return pd.concat(pd.read_html(source, flavor="lxml"), axis=0)
    except ImportError as error:
        raise EvaluationError(f"questions with HTML tables need lxml: {error}; the question was not graded") from error


def _json(orient: Any, lines: bool = False) -> Callable[[StringIO], pd.DataFrame]:
    def read(source: StringIO) -> pd.DataFrame:
        return pd.read_json(source, orient=orient, lines=lines)

    return read


def _separated(mark: str) -> Callable[[StringIO], pd.DataFrame]:
    def read(source: StringIO) -> pd.DataFrame:
        if source.getvalue().lstrip().partition("\n")[0].count(mark) > COLUMNS_LIMIT:
            raise ValueError(f"more than {COLUMNS_LIMIT} columns")  # pandas would name them for minutes
        return pd.read_csv(source, sep=mark)

    return read


_READERS: Final[dict[str, tuple[Callable[[StringIO], pd.DataFrame], ...]]] = {
    "json": (_json("index"), _json("records"), _json("records", True), _json("table"), _json("values")),
    "jsonl": (_json("records", True),),
    "html": (_read_html,),
    "csv": (_separated(","),),
    "tsv": (_separated("\t"),),
}
"""Ways to read each format, tried in their order."""


def _separated_in(text: str, truth: pd.DataFrame, form: str) -> pd.DataFrame | None:
    """The longest CSV or TSV table in a text that begins with the line of the true header."""
    lines = text.split("\n")
    header = _SEPARATORS[form].join(map(str, truth.columns)).strip()
    start = next((place for place, line in enumerate(lines) if line.strip() == header), None)
    if start is None:
        return None
    table = lines[start : start + 1 + len(truth) + TRAILING_LINES]
    for end in range(len(table), 0, -1):
        if (found := _read(form, "\n".join(table[:end]))) is not None:
            return found
    return None


def _jsonl_in(text: str, truth: pd.DataFrame) -> pd.DataFrame | None:
    """The lines of a text that are JSON objects with all true columns, as a table."""
    records = []
    for line in text.split("\n"):
        if line.startswith("{") and line.endswith("}") and all(str(name) in line for name in truth.columns):
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
    return pd.DataFrame(records) if records else None


def _is_same(table: pd.DataFrame, truth: pd.DataFrame) -> bool:
    """Whether two tables have the same columns, and the same values in them."""
    if len(table) != len(truth) or abs(table.shape[1] - truth.shape[1]) > 1:
        return False
    left, right = _columns(table), _columns(truth)
    return [name for name, _ in left] == [name for name, _ in right] and all(
        _is_equal(a, b)
        for (_, ours), (_, theirs) in zip(left, right, strict=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def _columns(table: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    """Names and values of the columns, by name; a column "index" is left out."""
    names = [str(column).strip() for column in table.columns]
    columns = [(name, table.iloc[:, place].tolist()) for place, name in enumerate(names) if name != "index"]
    return sorted(columns, key=lambda column: column[0])


def _is_equal(left: Any, right: Any) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left.strip() == right.strip()
    if left == right:
        return True
    if isinstance(left, float) and isinstance(right, float) and left != left and right != right:
        return True
    try:
        return abs(left - right) < TOLERANCE if _is_number(left) and _is_number(right) else False
    except OverflowError:  # an integer that no float can hold
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
