"""Coding: programs of LiveCodeBench (Jain et al. 2024, arXiv:2403.07974), written whole or completed, run on tests.

This module runs nothing: it finds the program in a response and the tests in a row, and hands both to a `RunCode`.

Sources: https://github.com/LiveBench/LiveBench, livebench/process_results/coding and livebench/lcb_runner.
"""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.evals.grades import Grade, Row
from bai_pipeline.evals.livebench.extraction import no_answer
from bai_pipeline.evals.livebench.schema import Fault, fault, is_text

TIME_LIMIT: Final = 6.0
"""Seconds that LiveBench gives a program for each test."""
TESTS_LIMIT: Final = 1 << 30
"""Bytes of a question's hidden tests, unpacked."""

_STARRED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
_NAMED = _STARRED[:-2]
PREAMBLE: Final = "".join(
    [
        *(f"from {module} import *\n" for module in _STARRED),
        *(f"import {module}\n" for module in _NAMED),
        "sys.setrecursionlimit(50000)\n",
    ]
)
"""What LiveCodeBench puts before every program, so that forgotten imports are forgiven."""
_STRING_PICKLE = frozenset({"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"})
_STRINGS = frozenset({"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"})


@dataclass(frozen=True)
class TestCase:
    """One test of a program."""

    __test__ = False  # not one of pytest's

    input: str
    """What the program reads from standard input; for a function, its arguments: one JSON value a line."""
    output: str
    """What the program should print (see `prints_same`); for a function, the JSON value that it should return."""
    function: str | None = None
    """The function to call, of the class Solution if the program has one; None: the program reads and prints."""

    def arguments(self) -> list[Any]:
        """The arguments of the function."""
        return [json.loads(line) for line in self.input.split("\n")]

    def returns(self, value: object) -> bool:
        """Whether a function that returned `value` is right; a tuple is as good as a list."""
        return bool((list(value) if isinstance(value, tuple) else value) == json.loads(self.output))


RunCode = Callable[[str, Sequence[TestCase]], tuple[bool, str]]
"""Runs a program on tests, each at most `TIME_LIMIT` seconds: whether it passed all of them, and why not.

The program begins with `PREAMBLE`. One whose tests have no function runs as a script, with the name __main__; one whose
tests have a function is loaded under another name.
"""


def coding(row: Row, response: str, run_code: RunCode | None) -> Grade:
    """A program: 1 if it passes the public and the hidden tests.

    It is between the last two code fences, else the whole response; where a question gives the beginning of the
    program, that is put before it, unless the response repeats it.

    Raises:
        DataError: the row's tests cannot be read.
        EvaluationError: no `run_code`.
    """
    if run_code is None:
        raise EvaluationError(
            f"question {row['question_id']}: coding questions need code execution, got no way to run code; the "
            f"question was not graded"
        )
    code = extract_code(response)
    if not code.strip():
        return no_answer("no program")
    beginning = row.get("partial_solution") or ""
    if beginning and not code.startswith(beginning):
        code = f"{beginning}\n{code}"
    passed, reason = run_code(f"{PREAMBLE}\n{code}", decode_tests(row))
    return Grade(float(passed), code, detail=reason)


def coding_faults(row: Row) -> Iterator[Fault]:
    """Faults of a row with tests; hidden tests are unpacked only when the question is graded."""
    for field in ("public_test_cases", "private_test_cases"):
        if not is_text(row.get(field)):
            yield fault(row, field, "a text that is not empty")
    if row["task"] == "coding_completion" and not is_text(row.get("partial_solution")):
        yield fault(row, "partial_solution", "the beginning of a program")
    if _metadata(row) is None:
        yield fault(row, "original_json", "a dictionary whose metadata is a JSON object")


def extract_code(response: str) -> str:
    """The program of a response.

    Between the last two lines with code fences; before the only one if that is the last line; else all, without
    backticks around it.
    """
    lines = response.rstrip().split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) >= 2:
        return "\n".join(lines[fences[-2] + 1 : fences[-1]])
    if len(response) > 1 and response[0] == response[-1] == "`":
        return response[1:-1]
    if fences == [len(lines) - 1]:
        return "\n".join(lines[:-1])
    return response.rstrip()


def decode_tests(row: Row) -> list[TestCase]:
    """The public tests of a row, then the hidden ones.

    Hidden tests are JSON, or JSON in a pickled string, zipped, in base 64. The pickle is read as text: it may have a
    string and nothing else, and is never loaded.

    Raises:
        DataError: not of this form.
    """
    name = (_metadata(row) or {}).get("func_name")
    question = str(row["question_id"])
    hidden = row["private_test_cases"]
    public_tests = _tests(question, "public_test_cases", row["public_test_cases"], name)
    packed = not hidden.lstrip().startswith("[")
    return public_tests + _tests(
        question, "private_test_cases", _unpacked(question, hidden) if packed else hidden, name
    )


def prints_same(printed: str, expected: str) -> bool:
    """Whether the output of a program is right: the same lines, or lines of equal numbers, but for outer space."""
    lines, wanted = ([line.strip() for line in text.strip().split("\n")] for text in (printed, expected))
    return len(lines) == len(wanted) and all(
        line == other or ((numbers := numbers_of(line)) is not None and numbers == numbers_of(other))
        for line, other in zip(lines, wanted, strict=True)
    )


def numbers_of(line: str) -> list[Decimal] | None:
    """The numbers of a line, if it is nothing else."""
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return None


def _metadata(row: Row) -> Mapping[str, Any] | None:
    original = row.get("original_json")
    try:
        original = json.loads(original) if isinstance(original, str) else original
        metadata = original.get("metadata") if isinstance(original, Mapping) else None
        metadata = json.loads(metadata) if isinstance(metadata, str) else None
    except ValueError:
        return None
    return metadata if isinstance(metadata, Mapping) else None


def _tests(question: str, field: str, text: str, function: str | None) -> list[TestCase]:
    try:
        cases = json.loads(text)
        return [TestCase(_text(case["input"]), _text(case["output"]), function) for case in cases]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"question {question}: expected in {field} a JSON list of tests with input and output, got "
            f"{text[:60]!r}… ({type(error).__name__}: {error}); the question was not graded"
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


def _unpacked(question: str, packed: str) -> str:
    try:
        unzip = zlib.decompressobj()
        pickled = unzip.decompress(base64.b64decode(packed), TESTS_LIMIT)
        if not unzip.eof:
            raise ValueError(f"cut off, or more than {TESTS_LIMIT} bytes")
        return _pickled_string(pickled)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise DataError(
            f"question {question}: expected in private_test_cases JSON, or base 64 of a zipped pickle of one string, "
            f"got {packed[:60]!r}… ({error}); the question was not graded"
        ) from error


def _pickled_string(pickled: bytes) -> str:
    """The string of a pickle that holds a string alone.

    Raises:
        ValueError: it holds anything else.
    """
    strings = []
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in _STRINGS:
            strings.append(str(argument))
        elif opcode.name not in _STRING_PICKLE:
            raise ValueError(f"the pickle has the operation {opcode.name}")
    if len(strings) != 1:
        raise ValueError(f"the pickle has {len(strings)} strings")
    return strings[0]
