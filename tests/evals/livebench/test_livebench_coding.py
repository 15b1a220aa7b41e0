import base64
import json
import pickle
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.evals.livebench import PREAMBLE, TestCase, grade, prints_same
from bai_pipeline.evals.livebench.coding import decode_tests, extract_code
from tests.evals.livebench.rows import COMPLETION, GENERATION, RIGHT


def run(program: str, tests: Sequence[TestCase]) -> tuple[bool, str]:
    """Runs the programs of this file, which do no harm, without a sandbox."""
    for number, test in enumerate(tests):
        if test.function is None:
            done = subprocess.run(
                [sys.executable, "-c", program], input=test.input, capture_output=True, text=True, check=False
            )
            right = done.returncode == 0 and prints_same(done.stdout, test.output)
        else:
            space: dict[str, Any] = {"__name__": "program"}
            exec(program, space)
            right = test.returns(getattr(space["Solution"](), test.function)(*test.arguments()))
        if not right:
            return False, f"test {number}"
    return True, "all passed"


@pytest.mark.parametrize("row", [GENERATION, COMPLETION])
def test_a_right_program_scores_one(row: dict[str, Any]) -> None:
    given = grade(row, RIGHT[row["question_id"]], run)
    assert (given.score, given.detail) == (1, "all passed")


def test_a_wrong_program_scores_zero_and_says_why() -> None:
    response = "```python\nclass Solution:\n    def square(self, n):\n        return n * 3\n```"
    given = grade(GENERATION, response, run)
    # 9 for 3 is public, 0 for 0 is hidden, 144 for 12 is hidden
    assert (given.score, given.detail) == (0, "test 2")
    assert given.extracted == "class Solution:\n    def square(self, n):\n        return n * 3"


@pytest.mark.parametrize("row", [GENERATION, COMPLETION])
def test_a_response_without_a_program_is_not_run(row: dict[str, Any]) -> None:
    def never(program: str, tests: Sequence[TestCase]) -> tuple[bool, str]:
        raise AssertionError(program)

    given = grade(row, "```python\n```", never)
    assert (given.score, given.extracted) == (0, None)


def test_forgotten_imports_are_forgiven() -> None:
    response = (
        "```python\nclass Solution:\n    def square(self, n: Optional[int]) -> List[int]:\n"
        "        return reduce(lambda a, b: a + b, [n] * n, 0)\n```"
    )
    assert grade(GENERATION, response, run).score == 1


@pytest.mark.parametrize("repeated", [False, True])
def test_the_beginning_of_a_program_is_put_before_its_completion(repeated: bool) -> None:
    programs = []

    def record(program: str, tests: Sequence[TestCase]) -> tuple[bool, str]:
        programs.append(program)
        return True, ""

    beginning, end = COMPLETION["partial_solution"], COMPLETION["remainder"]
    grade(COMPLETION, f"```\n{beginning}\n{end}\n```" if repeated else f"```\n{end}\n```", record)
    assert programs == [f"{PREAMBLE}\n{beginning}\n{end}"]


def test_without_code_execution_nothing_is_graded() -> None:
    with pytest.raises(EvaluationError, match="question LCB_generation: coding questions need code execution"):
        grade(GENERATION, RIGHT["LCB_generation"])


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1\n```\nor\n```python\nx = 2\n```", "x = 2"),
        ("x = 1\n```", "x = 1"),
        ("`x = 1`", "x = 1"),
        ("x = 1\n", "x = 1"),
        ("```python\nx = 1", "```python\nx = 1"),
    ],
)
def test_the_program_is_between_the_last_fences(response: str, code: str) -> None:
    assert extract_code(response) == code


def test_tests_are_the_public_ones_and_then_the_hidden_ones() -> None:
    assert decode_tests(GENERATION) == [
        TestCase("3", "9", "square"),
        TestCase("0", "0", "square"),
        TestCase("12", "144", "square"),
    ]
    plain = json.dumps([{"input": "7", "output": "49", "testtype": "stdin"}])
    assert decode_tests(COMPLETION | {"private_test_cases": plain})[-1] == TestCase("7", "49", None)


def pickled(value: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize(
    "hidden",
    [
        pickled(Harm()),
        pickled(["[]", "[]"]),
        pickled(7),
        pickled("no JSON"),
        pickled('{"input": "1"}'),
        pickled('[{"input": 1, "output": "1"}]'),
        "not base 64",
        base64.b64encode(zlib.compress(b"x" * 100)[:-5]).decode(),
        "[{]",
    ],
)
def test_hidden_tests_of_another_form_are_an_error_and_never_executed(
    hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"question LCB_generation: expected in private_test_cases .* not graded"):
        decode_tests(GENERATION | {"private_test_cases": hidden})
    assert not list(tmp_path.iterdir())


def test_arguments_are_a_json_value_a_line_and_tuples_are_lists() -> None:
    test = TestCase('[1, 2]\n"a"', "[2, 1]", "reverse")
    assert test.arguments() == [[1, 2], "a"]
    assert test.returns((2, 1))
    assert not test.returns([1, 2])


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n", "1 2", True),
        ("  1 2 \n3\n\n", "1 2\n3", True),
        ("1.50 2", "1.5 2.0", True),
        ("1.5000001", "1.5", False),
        ("yes", "Yes", False),
        ("1\n2", "1 2", False),
    ],
)
def test_output_is_compared_by_lines_and_numbers(printed: str, expected: str, same: bool) -> None:
    assert prints_same(printed, expected) is same
