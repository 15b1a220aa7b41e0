import re
from math import nan
from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals.case_studies import (
    COLUMNS,
    case_studies,
    case_studies_markdown,
    cut_middle,
    write_case_studies,
)


def samples(
    scores: list[float], response: str = "<think> so </think> 7", first: int = 0, repeat: int = 0
) -> pd.DataFrame:
    lines = [
        {
            "id": f"q{i}",
            "group": "",
            "repeat": repeat,
            "prompt": f"question {i}",
            "response": response,
            "extracted": "7" if score else None,
            "answer": str(i),
            "score": score,
            "weight": 1.0,
            "tokens": 5,
            "finish_reason": "stop",
            "detail": "",
        }
        for i, score in enumerate(scores, start=first)
    ]
    return pd.DataFrame(lines)


def chosen(studies: pd.DataFrame) -> dict[str, str]:
    return dict(zip(studies["id"], studies["chosen"], strict=True))


def test_questions_that_divide_the_models_come_first_and_the_others_are_random() -> None:
    rows = {"A": {"b": samples([1.0] * 20)}, "B": {"b": samples([1.0] * 7 + [0.0, 0.5] + [1.0] * 11)}}
    found = chosen(case_studies(rows, 2))
    assert list(found.values()) == ["scores differ most", "at random"]
    assert next(iter(found)) == "q7"
    # four questions: two by difference, of which there are two
    assert list(chosen(case_studies(rows, 4)).items())[:2] == [
        ("q7", "scores differ most"),
        ("q8", "scores differ most"),
    ]


def test_an_even_split_divides_more_than_a_single_dissenter() -> None:
    votes = [([1.0, 0.0], "A"), ([1.0, 0.0], "B"), ([0.0, 1.0], "C"), ([0.0, 0.0], "D")]
    rows = {row: {"b": samples(scores)} for scores, row in votes}
    assert next(iter(chosen(case_studies(rows, 1)))) == "q0"


def test_where_nothing_differs_all_are_random() -> None:
    rows = {row: {"b": samples([0.1] * 9)} for row in "ABC"}
    assert set(chosen(case_studies(rows, 4)).values()) == {"at random"}


def test_the_choice_is_repeated_by_the_same_seed_and_changed_by_another() -> None:
    rows = {row: {"b": samples([1.0] * 50)} for row in "AB"}
    shuffled = {row: {"b": of["b"].sample(frac=1, random_state=1)} for row, of in rows.items()}
    assert chosen(case_studies(rows, 5)) == chosen(case_studies(shuffled, 5))
    assert chosen(case_studies(rows, 5)) != chosen(case_studies(rows, 5, seed=1))


def test_every_row_answers_every_question_in_the_order_of_the_rows() -> None:
    rows = {row: {"b": samples([1.0, 0.0, 1.0], response=row)} for row in ("Paradigm 3", "BAI", "Base")}
    studies = case_studies(rows, 2)
    assert list(studies.columns) == list(COLUMNS)
    assert list(studies["row"]) == ["Paradigm 3", "BAI", "Base"] * 2
    assert list(studies["response"]) == list(studies["row"])
    assert studies["id"].nunique() == 2


def test_benchmarks_share_the_questions_and_what_one_lacks_goes_to_the_others() -> None:
    rows = {row: {"small": samples([1.0]), "b": samples([1.0] * 9), "c": samples([1.0] * 9)} for row in "AB"}
    count = case_studies(rows, 6).drop_duplicates(["benchmark", "id"])["benchmark"].value_counts().to_dict()
    assert count == {"b": 3, "c": 2, "small": 1}
    assert len(case_studies(rows, 100)) == 2 * 19


def test_only_questions_that_every_row_answered_are_shown_and_only_the_first_repeat() -> None:
    repeated = pd.concat([samples([0.0, 0.0], "second", repeat=1), samples([1.0, 1.0], "first")])
    studies = case_studies({"A": {"b": repeated}, "B": {"b": samples([1.0, 1.0], first=1)}}, 5)
    assert list(studies["id"]) == ["q1", "q1"]
    assert studies["response"].tolist()[0] == "first"


def test_a_row_that_did_not_run_a_benchmark_is_named_under_its_questions() -> None:
    text = case_studies_markdown(
        case_studies({"A": {"b": samples([1.0]), "c": samples([1.0])}, "B": {"b": samples([1.0])}}, 2)
    )
    b, c = text.split("\n## ")[1:]
    assert "Did not run" not in b
    assert "Did not run this benchmark: `B`." in c


def test_the_page_says_how_the_cases_were_chosen() -> None:
    rows = {"A": {"b": samples([1.0] * 9)}, "B": {"b": samples([0.0] + [1.0] * 8)}}
    text = case_studies_markdown(case_studies(rows, 4))
    assert "4 questions" in text
    assert "1 were chosen because the models' scores differ most on them, 3 were drawn at random" in text
    assert "no evidence" in text


def test_a_case_shows_question_reference_verdict_length_and_response() -> None:
    text = case_studies_markdown(case_studies({"A": {"b": samples([1.0])}, "B": {"b": samples([0.0])}}, 1))
    assert "## `b`, question `q0`" in text
    assert "Reference answer: `0`." in text
    assert "```text\nquestion 0\n```" in text
    assert "### `A`\n\nScore 1; answer found: `7`; 5 tokens.\n\n```text\n<think> so </think> 7\n```" in text
    assert "### `B`\n\nScore 0; answer found: none; 5 tokens." in text


def test_what_was_not_graded_is_said_and_does_not_differ() -> None:
    rows = {"A": {"b": samples([1.0])}, "B": {"b": samples([0.0]).assign(score=nan)}}
    studies = case_studies(rows, 1)
    assert set(chosen(studies).values()) == {"at random"}
    assert "### `B`\n\nNot graded; answer found: none; 5 tokens." in case_studies_markdown(studies)


def test_a_response_cannot_leave_its_fence() -> None:
    hostile = "```\n# Not a heading\n`````\n</think>"
    text = case_studies_markdown(case_studies({"A": {"b": samples([1.0], hostile)}}, 1))
    assert f"``````text\n{hostile}\n``````\n" in text


def test_a_name_cannot_leave_its_inline_code() -> None:
    table = samples([1.0]).assign(id="q`0\n# x", extracted="`")
    text = case_studies_markdown(case_studies({"A": {"b": table}}, 1))
    assert "question `` q`0 # x ``" in text
    assert "answer found: `` ` ``;" in text


def test_a_long_response_is_cut_in_the_middle_and_says_by_how_much() -> None:
    text = case_studies_markdown(case_studies({"A": {"b": samples([1.0], "a" * 5000 + "z" * 5000)}}, 1), shown=1000)
    assert re.search(r"\na{500}\n\[… 9,000 characters left out …\]\nz{500}\n", text)
    assert cut_middle("abcde", 5) == "abcde"
    assert cut_middle("abcdefg", 3) == "ab\n[… 4 characters left out …]\ng"


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    studies = case_studies({"A": {"b": samples([1.0])}, "B": {"b": samples([1.0], first=9)}}, 3)
    assert studies.empty
    table, page = write_case_studies(studies, tmp_path)
    assert "there is no case to show" in page.read_text(encoding="utf-8")
    assert pd.read_parquet(table).empty


def test_table_and_page_are_written(tmp_path: Path) -> None:
    studies = case_studies({"A": {"b": samples([1.0, 0.0])}}, 2)
    files = write_case_studies(studies, tmp_path)
    assert [f.name for f in files] == ["case_studies.parquet", "case_studies.md"]
    assert pd.read_parquet(files[0])["extracted"].isna().sum() == 1


def test_different_questions_under_one_id_are_an_error() -> None:
    other = samples([1.0]).assign(prompt="something else")
    with pytest.raises(DataError, match="same prompt for question 'q0' of A and of B"):
        case_studies({"A": {"b": samples([1.0])}, "B": {"b": other}}, 1)


def test_samples_without_their_columns_are_an_error() -> None:
    with pytest.raises(DataError, match=r"A on b .* response absent"):
        case_studies({"A": {"b": samples([1.0]).drop(columns="response")}}, 1)
