from pathlib import Path

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.grades import Grade
from bai_pipeline.evals.judging import FreeFormGrade, FreeFormItem, judge_free_form
from bai_pipeline.progress import SilentReporter
from tests.evals.judging.conftest import judge_at
from tests.evals.judging.judge_server import Asked, Reply, says, serving


def items(*answers: str) -> list[FreeFormItem]:
    return [FreeFormItem(f"q{n}", f"question {n}?", ("Zambia", "Republic of Zambia"), a) for n, a in enumerate(answers)]


def test_the_judge_sees_question_references_and_answer_and_its_score_is_kept(tmp_path: Path) -> None:
    with serving(lambda asked, number: says("Vague. [[0.4]]")) as server:
        result = judge_free_form(items("in Africa"), judge_at(server.url), tmp_path, SilentReporter())
    (asked,) = server.asked
    for text in ("question 0?", "1. Zambia\n2. Republic of Zambia", "in Africa"):
        assert text in asked.user
    assert result.grades[0].score == 0.4
    assert result.grades[0].grade == Grade(0.4, "0.4", 1.0, "the judge's score: 0.4")


def test_unparsable_scores_are_counted_and_left_out(tmp_path: Path) -> None:
    said = {"right": "[[1.0]]", "beyond": "[[1.5]]", "torn": "[[0.1]] or [[0.9]]", "silent": "", "mute": "hm"}

    def behaviour(asked: Asked, number: int) -> Reply:
        return says(next(text for answer, text in said.items() if answer in asked.user))

    with serving(behaviour) as server:
        result = judge_free_form(items(*said), judge_at(server.url), tmp_path, SilentReporter())
    assert [grade.score for grade in result.grades] == [1.0, None, None, None, None]
    assert (result.unparsable, result.without_score) == (4, ("q1", "q2", "q3", "q4"))
    assert len(server.asked) == 6  # "hm" alone is reminded
    assert [grade.grade is None for grade in result.grades] == [False, True, True, True, True]


def test_the_score_may_come_with_the_reminder(tmp_path: Path) -> None:
    def behaviour(asked: Asked, number: int) -> Reply:
        return says("It is the same country.") if len(asked.body["messages"]) == 2 else says("[[1.0]]")

    with serving(behaviour) as server:
        result = judge_free_form(items("Zambia"), judge_at(server.url), tmp_path, SilentReporter())
    assert result.grades == (FreeFormGrade("q0", 1.0, result.grades[0].requests),)
    assert len(result.grades[0].requests) == 2


def test_an_item_without_reference_and_equal_ids_are_refused(tmp_path: Path) -> None:
    settings = judge_at("http://127.0.0.1:9/v1")
    with pytest.raises(DataError, match="expected a reference answer to question 'q', got none"):
        judge_free_form([FreeFormItem("q", "?", (), "x")], settings, tmp_path, SilentReporter())
    with pytest.raises(DataError, match="expected answers to grade with different ids, got 'q0' twice"):
        judge_free_form([*items("a"), *items("b")], settings, tmp_path, SilentReporter())
