from typing import Any

import pytest

from bai_pipeline.evals.livebench import grade
from bai_pipeline.evals.livebench.equivalence import is_equivalent
from tests.evals.livebench.rows import AIME, AMC, AMPS, OLYMPIAD, RIGHT


@pytest.mark.parametrize("row", [AMC, AIME, OLYMPIAD, AMPS])
def test_a_right_answer_scores_one(row: dict[str, Any]) -> None:
    assert grade(row, RIGHT[row["question_id"]]).score == 1


@pytest.mark.parametrize("row", [AMC, AIME, OLYMPIAD, AMPS])
@pytest.mark.parametrize("response", ["", "I cannot tell.", " \n"])
def test_a_response_without_an_answer_scores_zero(row: dict[str, Any], response: str) -> None:
    given = grade(row, response)
    assert (given.score, given.extracted) == (0, None)


@pytest.mark.parametrize(
    "response",
    [
        "BBBBB",
        "I take <solution>BBBBB</solution>",
        "So $\\boxed{\\text{B}}$ it is, as shown.",
        "Thinking.\n**B**\n",
        "Thinking.\nThe answer is (b).",
        "We get 6 times 7, which is 42",
        "AAAAA or rather BBBBB",
    ],
)
def test_a_choice_may_be_a_letter_in_many_places_or_the_value_at_the_end(response: str) -> None:
    assert grade(AMC, response).score == 1


@pytest.mark.parametrize(
    ("response", "extracted"),
    [("CCCCC", "C"), ("\\boxed{A}", "A"), ("It is 42, and that settles this question at last.", None)],
)
def test_a_wrong_choice_scores_zero(response: str, extracted: str | None) -> None:
    given = grade(AMC, response)
    assert (given.score, given.extracted) == (0, extracted)


def test_a_choice_without_options_in_the_question_is_not_found_by_its_value() -> None:
    assert grade(AMC | {"turns": ["What is six times seven?"]}, "42").score == 0


@pytest.mark.parametrize(
    ("response", "score", "extracted"),
    [
        ("\\boxed{025}", 1, "025"),
        ("xy = 025, which follows from the equations.", 1, "025"),
        ("xy = 25", 0, "25"),
        (f"025{'.' * 50}", 0, None),
    ],
)
def test_three_digits_must_be_in_the_last_fifty_characters(response: str, score: int, extracted: str | None) -> None:
    given = grade(AIME, response)
    assert (given.score, given.extracted) == (score, extracted)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Answer: 5, 3, 7", 1 - 1 / 4),  # one is missing
        ("Answer: 5, 22, 7, 3", 1 - 2 / 4),  # two are swapped
        ("Answer: 5, 22, 3, 7, 9, 9, 9, 9", 1 - 4 / 8),  # the longer length counts
        ("Answer: 1, 2, 4, 6", 0),
        ("Answer: 5, x, 3, 7", 1 - 1 / 4),
    ],
)
def test_an_order_is_scored_by_its_edit_distance(response: str, score: float) -> None:
    assert grade(OLYMPIAD, response).score == pytest.approx(score)


@pytest.mark.parametrize(
    "response",
    [
        "answer: 1\nAnswer: 5, 22, 3, 7",
        "**Answer:**\n5, 22, 3, 7.",
        "Answer: $\\boxed{5, 22, 3, 7}$",
        "so \\boxed{5, 22, 3, 7} is it",
        "<expression 5>, <expression 22>, <expression 3>, <expression 7>",
        "Answer: unknown\n\n5, 22, 3, 7",
        "5, 22, 3, 7 fill them.\n\nGood luck!",
    ],
)
def test_an_order_may_be_written_in_many_ways(response: str) -> None:
    assert grade(OLYMPIAD, response).score == 1


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("\\boxed{\\dfrac{3754}{20}}", 1),
        ("\\boxed{s^2 = 187.7004}", 1),  # within 0.001
        ("\\boxed{187.8}", 0),
        ("Hence $s^2 = \\frac{1877}{10}$", 1),
        ("The variance is \\frac{1877}{10}.", 1),
        ("\\boxed{\\frac{1877}{}", 0),
        ("\\boxed{the variance, of course}", 0),
    ],
)
def test_a_formula_is_compared_by_its_value(response: str, score: int) -> None:
    assert grade(AMPS, response).score == score


def test_the_constant_of_an_integral_is_not_compared() -> None:
    row = AMPS | {"ground_truth": "\\cos (5) \\cos (x)-\\sin (5) \\sin (x)"}
    assert grade(row, "\\boxed{\\cos(x + 5) + C}").score == 1


def test_a_long_formula_is_no_answer() -> None:
    assert grade(AMPS, f"\\boxed{{{'1+' * 1000}1}}").extracted is None


def test_formulae_that_cannot_be_compared_are_neither_equal_nor_different() -> None:
    assert is_equivalent("x^2", "x^3") is False
    assert is_equivalent("x^2", "\\frac{") is None
    assert is_equivalent("x^2", "x^{2}", time_limit=0.001) is None
