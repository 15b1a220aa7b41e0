from typing import Any

import pytest

from bai_pipeline.evals.livebench import grade
from tests.evals.livebench.rows import LIES, RIGHT, SPATIAL, ZEBRA


@pytest.mark.parametrize("row", [ZEBRA, LIES, SPATIAL])
def test_a_right_answer_scores_one(row: dict[str, Any]) -> None:
    assert grade(row, RIGHT[row["question_id"]]).score == 1


@pytest.mark.parametrize("row", [ZEBRA, LIES, SPATIAL])
@pytest.mark.parametrize("response", ["", "I cannot tell.", "<solution></solution>"])
def test_a_response_without_an_answer_scores_zero(row: dict[str, Any], response: str) -> None:
    given = grade(row, response)
    assert (given.score, given.extracted) == (0, None)


@pytest.mark.parametrize(
    ("answers", "score"),
    [
        ("1, filmmaking, police-officer, teacher", (0 + 3 / 4) / 2),
        ("1, filmmaking", (0 + 2 / 4) / 2),
        ("2, collecting, journalist, police-officer", 0),
        ("filmmaking, 1, police-officer, journalist", (0 + 2 / 4) / 2),
    ],
)
def test_half_of_a_zebra_puzzle_is_the_share_of_right_answers(answers: str, score: float) -> None:
    given = grade(ZEBRA, f"Let me see.\n<solution>{answers}</solution>")
    assert given.score == pytest.approx(score)
    assert given.extracted == answers


@pytest.mark.parametrize(
    "response",
    [
        "<solution>Position 1, Filmmaking, the police officer, JOURNALIST</solution>",
        "<solution>a, b</solution> no: <solution>1, filmmaking, police-officer, journalist</solution>",
        "<solution>1, filmmaking</solution><solution>police-officer, journalist</solution>",
        "</solution>1, filmmaking, police-officer, journalist</solution>",
        "$\\boxed{\\text{1, filmmaking, police-officer, journalist}}$",
        "So:\n1, filmmaking, police-officer, journalist",
    ],
)
def test_a_zebra_puzzle_may_be_answered_in_many_ways(response: str) -> None:
    assert grade(ZEBRA, response).score == 1


@pytest.mark.parametrize(
    "response",
    [
        "**no, yes, yes**",
        "**Yes** first, but **No**, then **Yes.** and **yes**",
        "<solution>no, yes, yes</solution>, not **yes, yes, yes**",
        "\\boxed{\\textbf{no, yes, yes}}",
        "$\\boxed{\\text{no, yes, yes}}$",
        "It was yes, yes, yes; now it is No, yes, yes",
    ],
)
def test_lies_may_be_answered_in_many_ways(response: str) -> None:
    assert grade(LIES, response).score == 1


@pytest.mark.parametrize(
    ("response", "extracted"),
    [
        ("**no, yes, no**", "no, yes, no"),
        ("**yes, yes**", "yes, yes"),
        ("<solution>no, yes, yes, no</solution>", "no, yes, yes, no"),
        ("<solution>No, Yes, Yes</solution>", "No, Yes, Yes"),  # tags are read letter by letter
    ],
)
def test_lies_are_right_as_a_whole_or_not_at_all(response: str, extracted: str) -> None:
    given = grade(LIES, response)
    assert (given.score, given.extracted) == (0, extracted)


@pytest.mark.parametrize(
    ("truth", "response", "score"),
    [
        ("3", "**3**", 1),
        ("3", "There are **Three** pieces", 1),
        ("3", "**3**, with **two** cuts of **one** kind", 1),
        ("3", "**3**, with **two** cuts of **one** kind **again**", 0),  # only the last three passages
        ("3", "**3 pieces**", 0),
        ("3", "$\\boxed{\\text{3}}$", 1),
        ("3", "\\boxed{4}", 0),
        ("3", "3", 1),
        ("triangle", "an **equilateral triangle**", 1),
        ("triangle", "**circle square triangle**", 0),
        ("square pyramid", "**Square Pyramid**", 1),
        ("square pyramid", "**a square pyramid**", 0),
    ],
)
def test_shapes_and_numbers_are_in_bold_or_in_a_box(truth: str, response: str, score: int) -> None:
    assert grade(SPATIAL | {"ground_truth": truth}, response).score == score
