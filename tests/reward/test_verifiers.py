"""Verifiers of responses."""

import pytest

from bai_pipeline.reward.verifiers import VERIFIERS


@pytest.mark.parametrize(
    ("response", "answer", "right"),
    [
        ("The answer is $\\boxed{42}$.", "42", True),
        ("so it is 0.5", "\\frac{1}{2}", True),
        ("therefore \\boxed{\\frac{2}{4}}", "1/2", True),
        ("<think>first 4, no</think> it is 3", "3", True),
        ("\\boxed{1+x^2}", "x^2+1", True),
        ("it is 8", "7", False),
        ("no idea", "7", False),
        ("", "7", False),
    ],
)
def test_mathematics_is_compared_by_value(response: str, answer: str, right: bool) -> None:
    assert VERIFIERS["math"].is_correct(response, answer) is right


@pytest.mark.parametrize(("answer", "accepted"), [("7", True), ("\\frac{1}{2}", True), ("", False), ("  ", False)])
def test_an_answer_that_is_no_mathematics_is_not_accepted(answer: str, accepted: bool) -> None:
    assert VERIFIERS["math"].accepts(answer) is accepted
