import pytest

from bai_pipeline.evals.judging.prompts import FREE_FORM_SYSTEM, PAIR_REMINDER, PAIR_SYSTEM, pair_messages
from bai_pipeline.evals.judging.verdicts import PAIR_LABELS, Reading, read_pair_label, read_score, spoken


@pytest.mark.parametrize("label", PAIR_LABELS)
def test_each_label_is_read(label: str) -> None:
    assert read_pair_label(f"My answer is 4. A says 5.\n\n[[{label}]]") == Reading(label, True)


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("**[[A>B]]**, as I said: [[A>B]]", "A>B", True),
        ("[[B<A]] or, the same, [[A>B]]", "A>B", True),
        ("[[A<<B]]", "B>>A", True),
        ("[[B=A]]", "A=B", True),
        ("[[ A >> B ]]", "A>>B", True),
        ("[[A>B]] … no: [[A>>B]]", None, True),
        ("[[A>B]] [[B>A]]", None, True),
        ("[[A]]", None, True),
        ("[[A>>>B]]", None, True),
        ("[[A>B]] [[A>>>B]]", None, True),
        ("A>B", None, False),
        ("[A>B]", None, False),
        ("[[]]", None, False),
        ("[[C>B]]", None, False),
        ("", None, False),
    ],
)
def test_what_is_no_single_label_is_not_guessed(text: str, value: str | None, found: bool) -> None:
    assert read_pair_label(text) == Reading(value, found)


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        ("The score: [[0.0]]", 0.0, True),
        ("[[1.0]]", 1.0, True),
        ("[[1]] that is [[1.0]]", 1.0, True),
        ("[[.5]]", 0.5, True),
        ("[[ 0.35 ]]", 0.35, True),
        ("[[0.2]] [[0.3]]", None, True),
        ("[[1.1]]", None, True),
        ("[[-0.1]]", None, True),
        ("[[10]]", None, True),
        ("[[0.5/1]]", None, False),
        ("[0.5]", None, False),
        ("[[nan]]", None, False),
        ("0.5", None, False),
        ("", None, False),
    ],
)
def test_a_score_is_one_number_in_its_range(text: str, value: float | None, found: bool) -> None:
    assert read_score(text) == Reading(value, found)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>[[A>B]]? no</think> [[B>A]]", " [[B>A]]"),
        ("[[A>B]]? no</think>[[B>A]]", "[[B>A]]"),
        ("\n<think>[[A>B]]? I am cut", ""),
        ("plain [[A>B]]", "plain [[A>B]]"),
    ],
)
def test_a_judge_that_thinks_aloud_is_read_after_its_thinking(text: str, answer: str) -> None:
    assert spoken(text) == answer


def test_the_judge_is_told_every_label_that_is_read() -> None:
    assert all(f"[[{label}]]" in PAIR_SYSTEM and f"[[{label}]]" in PAIR_REMINDER for label in PAIR_LABELS)
    assert "[[0.5]]" in FREE_FORM_SYSTEM


def test_texts_reach_the_judge_as_they_are_and_in_order() -> None:
    question, first, second = "what is {0}?", "it is {answer} %s", "it is \\n"
    system, user = pair_messages(question, first, second)
    places = [user["content"].index(text) for text in (question, first, second)]
    assert places == sorted(places)
    assert (system["role"], user["role"]) == ("system", "user")
