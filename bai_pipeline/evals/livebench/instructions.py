"""Instructions whose following can be checked: those of IFEval (Zhou et al. 2023, arXiv:2311.07911) in LiveBench.

Source: https://github.com/google-research/google-research/tree/master/instruction_following_eval
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bai_pipeline.evals.livebench.sentences import count_sentences

RELATIONS: Final = ("less than", "at least")
"""Of a count to the number that a question gives."""

_WORD = re.compile(r"\w+")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_POSTSCRIPTS: Final = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
_JSON_FENCES = ("```json", "```Json", "```JSON", "```")
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_WORD_ENDS = frozenset(".,?!'\"")


@dataclass(frozen=True)
class Instruction:
    """One kind of instruction."""

    arguments: Mapping[str, type]
    """What a question says of it, and of which type."""
    follows: Callable[..., bool]
    """Whether a text follows it: (text, **arguments)."""


def has_keywords(text: str, *, keywords: list[str]) -> bool:
    """All words are in the text, also as parts of others; without regard to case."""
    return all(keyword.lower() in text.lower() for keyword in keywords)


def has_no_forbidden_word(text: str, *, forbidden_words: list[str]) -> bool:
    """None of the words is in the text as a word of its own; without regard to case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


def has_sentences(text: str, *, num_sentences: int, relation: str) -> bool:
    """Less than, or at least, so many sentences."""
    return _compare(count_sentences(text), relation, num_sentences)


def has_words(text: str, *, num_words: int, relation: str) -> bool:
    """Less than, or at least, so many runs of letters, digits and underscores."""
    return _compare(len(_WORD.findall(text)), relation, num_words)


def has_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between dividers "***"; only the first and the last may be blank, and do not count."""
    parts = [part.strip() for part in _DIVIDER.split(text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def starts_paragraph(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between blank lines, and the n-th starts with a word (up to a punctuation mark)."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    count = sum(map(bool, paragraphs))
    if nth_paragraph > count or count != num_paragraphs or not paragraphs[nth_paragraph - 1]:
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"').lower()
    end = next((place for place, character in enumerate(word) if character in _WORD_ENDS), len(word))
    return word[:end] == first_word.lower()


def has_postscript(text: str, *, postscript_marker: str) -> bool:
    """The marker, without regard to case, is somewhere in the text."""
    marker = postscript_marker.strip()
    pattern = _POSTSCRIPTS.get(marker) or re.compile(re.escape(marker.lower()))
    return pattern.search(text.lower()) is not None


def has_bullets(text: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with one asterisk, or with a hyphen."""
    lines = [line.lstrip() for line in text.split("\n")]
    starred = sum(line.startswith("*") and not line.startswith("**") for line in lines)
    if lines[-1] == "*":
        starred -= 1  # a bullet has a character after the asterisk, be it the line's end
    return starred + sum(line.startswith("-") for line in lines) == num_bullets


def has_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many numbered headings: "Section 1"."""
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)) >= num_sections


def is_json(text: str) -> bool:
    """JSON, perhaps in code fences."""
    text = text.strip()
    for fence in _JSON_FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def has_title(text: str) -> bool:
    """A line with double angular brackets and something between them: <<title>>."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 2 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def is_constrained(text: str) -> bool:
    """One of the three answers that were offered is in the text."""
    return any(answer in text for answer in _CONSTRAINED)


def has_two_responses(text: str) -> bool:
    """Two different texts between six asterisks; before the first and after the last may be blank ones."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeats_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    """The text starts with the request; without regard to case."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def ends_with(text: str, *, end_phrase: str) -> bool:
    """The text ends with the phrase, perhaps before a quotation mark; without regard to case."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def is_quoted(text: str) -> bool:
    """The text is in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


INSTRUCTIONS: Final[Mapping[str, Instruction]] = {
    "combination:repeat_prompt": Instruction({"prompt_to_repeat": str}, repeats_prompt),
    "combination:two_responses": Instruction({}, has_two_responses),
    "detectable_content:postscript": Instruction({"postscript_marker": str}, has_postscript),
    "detectable_format:constrained_response": Instruction({}, is_constrained),
    "detectable_format:json_format": Instruction({}, is_json),
    "detectable_format:multiple_sections": Instruction({"section_spliter": str, "num_sections": int}, has_sections),
    "detectable_format:number_bullet_lists": Instruction({"num_bullets": int}, has_bullets),
    "detectable_format:title": Instruction({}, has_title),
    "keywords:existence": Instruction({"keywords": list}, has_keywords),
    "keywords:forbidden_words": Instruction({"forbidden_words": list}, has_no_forbidden_word),
    "length_constraints:nth_paragraph_first_word": Instruction(
        {"num_paragraphs": int, "nth_paragraph": int, "first_word": str}, starts_paragraph
    ),
    "length_constraints:number_paragraphs": Instruction({"num_paragraphs": int}, has_paragraphs),
    "length_constraints:number_sentences": Instruction({"num_sentences": int, "relation": str}, has_sentences),
    "length_constraints:number_words": Instruction({"num_words": int, "relation": str}, has_words),
    "startend:end_checker": Instruction({"end_phrase": str}, ends_with),
    "startend:quotation": Instruction({}, is_quoted),
}
"""The sixteen kinds that LiveBench's questions have; IFEval has nine more."""


def given(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says of an instruction of a kind; a row names the arguments of all kinds, and None for the others."""
    return {name: arguments[name] for name in INSTRUCTIONS[kind].arguments}


def _compare(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == RELATIONS[0] else count >= threshold
