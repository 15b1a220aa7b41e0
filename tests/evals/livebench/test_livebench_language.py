from typing import Any

import pytest

from bai_pipeline.evals.livebench import grade
from tests.evals.livebench.rows import CONNECTIONS, PLOT, RIGHT, TYPOS

ADA, BO, MEET, RETURN = (f"{sentence.strip()}." for sentence in PLOT["ground_truth"].split(".")[:4])


@pytest.mark.parametrize("row", [CONNECTIONS, PLOT, TYPOS])
def test_a_right_answer_scores_one(row: dict[str, Any]) -> None:
    assert grade(row, RIGHT[row["question_id"]]).score == 1


@pytest.mark.parametrize("row", [CONNECTIONS, PLOT, TYPOS])
@pytest.mark.parametrize("response", ["", "<solution></solution>\n", "\n\n"])
def test_a_response_without_an_answer_scores_zero(row: dict[str, Any], response: str) -> None:
    given = grade(row, "" if row is PLOT else response)
    assert (given.score, given.extracted) == (0, None)


@pytest.mark.parametrize(
    ("words", "score"),
    [
        ("ray, eel, pike, cod, oak, yew, ash, elm, wasp, ant, fly, bee", 1),  # no order counts
        ("ash, elm, oak, yew, cod, bee, fly, wasp, ant, eel, pike, ray", 1 / 3),
        ("ash, elm, oak, yew", 1 / 3),
        ("ASH, Elm, oak, yew, ant, bee, fly, wasp", 2 / 3),
        ("elm, oak, yew, ant, bee, fly, wasp, cod, eel, pike, ray, ash", 0),
        ("ash, elm, oak, yew, ash, elm, oak, yew, ash, elm, oak, yew", 1 / 3),  # one group, three times
    ],
)
def test_groups_are_counted(words: str, score: float) -> None:
    assert grade(CONNECTIONS, f"<solution>{words}</solution>").score == pytest.approx(score)


@pytest.mark.parametrize(
    "response",
    [
        "<solution>\nash, elm, oak, yew,\nant, bee, fly, wasp,\ncod, eel, pike, ray\n</solution>",
        "<solution>ray</solution> <solution>ash, elm, oak, yew, ant, bee, fly, wasp, cod, eel, pike, ray</solution>",
        "$\\boxed{\\text{ash, elm, oak, yew, ant, bee, fly, wasp, cod, eel, pike, ray}}$",
    ],
)
def test_words_may_be_listed_in_many_ways(response: str) -> None:
    assert grade(CONNECTIONS, response).score == 1


@pytest.mark.parametrize(
    ("sentences", "score"),
    [
        ((ADA, BO, RETURN, MEET), 1 - 2 / 4),  # a swap is two replacements
        ((BO, ADA, MEET, RETURN), 1 - 2 / 4),
        ((MEET,), 1 / 4),  # each true sentence is most like it: 0 0 0 0, of which the first is in place
        ((RETURN, MEET, BO, ADA), 0),  # 3 2 1 0
    ],
)
def test_a_plot_is_scored_by_the_edit_distance_of_its_order(sentences: tuple[str, ...], score: float) -> None:
    assert grade(PLOT, f"<PLOT_SUMMARY>\n{' '.join(sentences)}\n</PLOT_SUMMARY>").score == pytest.approx(score)


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (f"Here.\n<PLOT_SUMMARY>{ADA} {BO} {MEET} {RETURN}\n</PLOT_SUMMARY>\nThe end. Done.", 1),
        (f"<PLOT_SUMMARY>{ADA} {BO} {MEET} {RETURN} **End of Plot Summary**", 1),
        (f"{ADA} {BO} {MEET} {RETURN}", 1),
        ("Ada left home. Bo follows by a train. They all meet in the storm. Both return at dawn", 1),
        ("Ada left home. Bo follows by a train. They all meet in the storm! Both return at dawn", 3 / 4),  # 0 1 2 2
    ],
)
def test_a_plot_may_lack_tags_and_its_sentences_may_vary(response: str, score: float) -> None:
    assert grade(PLOT, response).score == score


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("Sure!\n\nWe propose to study emergent abilities.\n", 1),
        ("We propose to\nstudy emergent abilities.", 1),
        ("<solution>We propose to study emergent abilities.</solution>", 1),
        ("foo --- We propose to study emergent abilities. --- bar", 1),
        ("We propose to study emergant abilities.", 0),
        ("We propose to study emergent abilities. <solution>We propose</solution>", 0),
        ("We propose to study emergent abilities. --- wrong --- x", 0),
    ],
)
def test_a_corrected_text_is_compared_letter_by_letter(response: str, score: int) -> None:
    assert grade(TYPOS, response).score == score
