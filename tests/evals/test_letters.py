import pytest

from bai_pipeline.evals.letters import chosen_letter, listed_options
from bai_pipeline.evals.thinking import after_thinking, whole_response

FOUR = ["Paris", "Rome", "a cat", "42"]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("The answer is (C).", "C"),
        ("The answer is C", "C"),
        ("the correct answer is: **B**.", "B"),
        ("Answer: D", "D"),
        ("ANSWER: (A):", "A"),
        ("First I thought the answer is A. No: the answer is B", "B"),
        ("The answer is (B) because option A is wrong.", "B"),
        ("The correct option is (d)", None),
        ("Hence $\\boxed{C}$", "C"),
        ("so \\boxed{\\text{(b)}}", "B"),
        ("Answer: $\\boxed{A}$", "A"),
        ("B", "B"),
        ("(B).", "B"),
        ("B. Rome", "B"),
        ("Let me see.\n\nC", "C"),
        ("Rome", "B"),
        ("**Rome**", "B"),
        ("A cat sat there", None),
        ("the answer is a number", None),
        ("The answer is E", None),
        ("The answer is Apples", None),
        ("I do not know", None),
        ("", None),
    ],
)
def test_the_letter_that_an_answer_settles_on(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer, FOUR) == letter


def test_options_are_listed_with_their_letters() -> None:
    assert listed_options(["one", "two"]) == "A. one\nB. two"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<think>is it 3?</think> 4", "4"),
        ("is it 3?</think>\n\n4 ", "4"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>cut off", ""),
        ("no thinking", "no thinking"),
    ],
)
def test_the_answer_is_what_follows_the_thinking(response: str, answer: str) -> None:
    assert after_thinking(response) == answer


def test_thinking_that_the_template_opened_belongs_to_the_response() -> None:
    assert whole_response("<user>hi<assistant><think>\n", "hm") == "<think>hm"
    assert whole_response("<user>hi<assistant>", "hm") == "hm"
