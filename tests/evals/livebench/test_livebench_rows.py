from datetime import UTC, date, datetime
from typing import Any

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.livebench import RELEASE, TASKS, check_rows, grade, in_release, weights
from tests.evals.livebench.rows import (
    AMC,
    AMPS,
    CONNECTIONS,
    CTA,
    GENERATION,
    LIES,
    OLYMPIAD,
    PARAPHRASE,
    PLOT,
    ROWS,
    SUMMARIZE,
    TABLEJOIN,
    TABLEREFORMAT,
    TYPOS,
    ZEBRA,
)

ALL = [*(row for rows in ROWS.values() for row in rows), PLOT]


def without(row: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != field}


def test_every_task_has_a_row_that_is_right() -> None:
    check_rows(ALL)
    assert {row["task"] for row in ALL} == TASKS.keys()
    assert {row["category"] for row in ALL} == {task.category for task in TASKS.values()}


@pytest.mark.parametrize("row", [row for row in ALL if row["category"] != "coding" and row is not PLOT])
def test_no_idea_scores_nothing(row: dict[str, Any]) -> None:
    assert grade(row, "no idea").score == 0


@pytest.mark.parametrize("row", [row for row in ALL if row["category"] != "coding"])
@pytest.mark.parametrize(
    "response",
    ["<" * 99_999, "\n" * 99_999 + "x", "<solution>" * 9_999, "\\boxed{" * 9_999, " --- x" * 9_999, "1, " * 33_333],
)
@pytest.mark.timeout(15)
def test_a_response_of_a_hundred_thousand_characters_is_graded_in_seconds(row: dict[str, Any], response: str) -> None:
    assert 0 <= grade(row, response).score <= 1


def test_every_faulty_row_is_named_with_field_expected_and_found() -> None:
    rows = [
        AMC | {"task": "chess"},
        AMC | {"question_id": "b", "category": "language", "ground_truth": "F"},
        AMC | {"question_id": "c", "subtask": "imo"},
        TYPOS | {"turns": []},
        without(LIES, "ground_truth"),
        ZEBRA | {"livebench_release_date": None},
        OLYMPIAD | {"ground_truth": "5, x"},
        TABLEJOIN | {"ground_truth": "['zip']"},
        TABLEREFORMAT | {"turns": ["Please convert the Input Table from CSV format to Markdown format."]},
        PARAPHRASE | {"kwargs": []},
        SUMMARIZE | {"kwargs": [{"num_bullets": "2"}]},
        GENERATION | {"original_json": {}, "public_test_cases": ""},
        CTA | {"livebench_release_date": "November", "livebench_removal_date": 7},
        AMPS,
        AMPS,
    ]
    with pytest.raises(DataError) as error:
        check_rows(rows)
    text = str(error.value)
    for fault in (
        "nothing was evaluated",
        "row 1: task: expected one of math_comp, olympiad",
        "row 2: category: expected math, got 'language'",
        "row 2: ground_truth: expected a letter from A to E, got 'F'",
        "row 3: subtask: expected a name that starts with amc, smc, updated_amc or aime, got 'imo'",
        "row 4: turns: expected a list of one question, got []",
        "row 5: ground_truth: expected a text that is not empty, got no such field",
        "row 6: livebench_release_date: expected a date YYYY-MM-DD, got None",
        "row 7: ground_truth: expected numbers with commas between them, got '5, x'",
        "row 8: ground_truth: expected a dictionary",
        "row 9: turns: expected a question with",
        "row 10: kwargs: expected one for each of 3 instructions, got 0",
        "row 11: kwargs[0].num_bullets: expected int, for detectable_format:number_bullet_lists, got '2'",
        "row 12: public_test_cases: expected a text",
        "row 12: original_json: expected a dictionary whose metadata",
        "row 13: livebench_release_date: expected a date YYYY-MM-DD, got 'November'",
        "row 13: livebench_removal_date: expected a date YYYY-MM-DD or nothing, got 7",
        "question_id 'amps_hard_variance' occurs 2 times",
    ):
        assert fault in text
    assert "row 14" not in text


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        check_rows([])


def test_an_unknown_task_is_named_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"task: expected one of math_comp, .*coding_completion, got 'house_traversal'"):
        grade(LIES | {"task": "house_traversal"}, "5")
    with pytest.raises(DataError, match=r"expected tasks of math_comp, .*, got house_traversal"):
        weights([LIES | {"task": "house_traversal"}])


@pytest.mark.parametrize(
    ("released", "removed", "held"),
    [
        ("2024-11-25", "", True),
        ("2024-06-24", None, True),
        ("2024-06-24", "2024-11-25", False),
        ("2024-06-24", "2025-04-02", True),
        ("2025-04-02", "", False),
        (datetime(2024, 8, 31, tzinfo=UTC), date(2025, 4, 2), True),
    ],
)
def test_a_release_holds_what_was_published_by_then_and_not_removed(released: Any, removed: Any, held: bool) -> None:
    row = LIES | {"livebench_release_date": released, "livebench_removal_date": removed}
    assert in_release(row, RELEASE) is held


@pytest.mark.parametrize("row", [ZEBRA, CONNECTIONS])
def test_questions_of_before_the_release_are_read_but_not_graded(row: dict[str, Any]) -> None:
    removed = row | {"livebench_release_date": "2024-06-24", "livebench_removal_date": "2024-11-25"}
    check_rows([removed])
    with pytest.raises(DataError, match=r"of 2024-11-25 or later, got one of 2024-06-24; the response was not graded"):
        grade(removed, "***ash***")


def test_a_release_that_is_no_date_is_an_error() -> None:
    with pytest.raises(DataError, match="expected a date YYYY-MM-DD, got 'latest'"):
        in_release(LIES, "latest")


def test_weights_make_the_mean_of_categories_of_tasks_of_questions() -> None:
    rows = [AMC, AMC | {"question_id": "second"}, OLYMPIAD, TYPOS]
    given = weights(rows)
    # two categories; math has two tasks, of which one has two questions
    assert given == [1 / 8, 1 / 8, 1 / 4, 1 / 2]
    scores = [1.0, 0.0, 1.0, 0.0]
    # math: (1/2 + 1) / 2 = 3/4; language: 0
    assert sum(w * score for w, score in zip(given, scores, strict=True)) == (3 / 4 + 0) / 2
