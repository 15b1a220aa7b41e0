"""Data tables: the schema, and errors that name file, row and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.tables import TableKind, import_table, read_table, write_table

USER = {"role": "user", "content": "sum a 1 b 2"}
ASSISTANT = {"role": "assistant", "content": "ans 3"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("kind", "row", "fault"),
    [
        ("prompts", {"id": "", "messages": [USER]}, "row 0: id must be non-empty text, got ''"),
        ("prompts", {"id": "1", "messages": []}, "row 0: messages must be a non-empty list"),
        (
            "prompts",
            {"id": "1", "messages": [{"role": "user", "content": "  "}]},
            "messages[0].content must be non-empty",
        ),
        ("prompts", {"id": "1", "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role must be one of"),
        ("prompts", {"id": "1", "messages": [USER, ASSISTANT]}, "must end with a turn of the user, got 'assistant'"),
        ("prompts", {"id": "1", "messages": [USER], "verifier": "synthetic"}, "verifier 'synthetic' needs an answer"),
        ("prompts", {"id": "1", "messages": [USER], "answer": 7}, "row 0: answer must be text, got 7"),
        ("prompts", {"id": "1", "messages": [USER], "answer": "7", "verifier": 1}, "verifier must be text, got 1"),
        ("preferences", {"id": 3, "prompt": [USER], "chosen": "a", "rejected": "b"}, "id must be text, got 3"),
        ("sft", {"text": "x"}, "row 0: messages must be a non-empty list"),
        ("sft", {"messages": [USER]}, "must end with a turn of the assistant, got 'user'"),
        ("preferences", {"prompt": [USER], "chosen": "", "rejected": "b"}, "row 0: chosen must be non-empty text"),
        ("preferences", {"prompt": [USER], "chosen": "a", "rejected": "a"}, "chosen and rejected are the same text"),
        ("preferences", {"prompt": "text", "chosen": "a", "rejected": "b"}, "prompt must be a non-empty list"),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(tmp_path: Path, kind: TableKind, row: Any, fault: str) -> None:
    path = jsonl(tmp_path / "table.jsonl", row)
    with pytest.raises(DataError) as caught:
        read_table(kind, path)
    assert str(path) in str(caught.value)
    assert fault in str(caught.value)


def test_a_repeated_id_is_named_with_both_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", {"id": "a", "messages": [USER]}, {"id": "a", "messages": [USER]})
    with pytest.raises(DataError, match="row 1: id 'a' stands in row 0 already"):
        read_table("prompts", path)


def test_at_most_ten_faults_are_shown_with_the_count_of_the_rest(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "p.jsonl", *[{"messages": []}] * 14)
    with pytest.raises(DataError, match="and 4 more"):
        read_table("sft", path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", "id\n"), ("x.jsonl", "{broken"), ("x.jsonl", ""), ("x.jsonl", "[1]"), ("x.parquet", "no")],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        read_table("sft", tmp_path / name)


def test_an_imported_table_keeps_the_schemas_columns_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "p.jsonl", {"id": "a", "messages": [{**USER, "weight": 1}], "answer": "3", "note": "x"})
    for name in ("one.parquet", "two.parquet"):
        assert import_table("prompts", source, tmp_path / name) == 1
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_table("prompts", tmp_path / "one.parquet") == [
        {"id": "a", "messages": [USER], "answer": "3", "verifier": None}
    ]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ASSISTANT]}]
    write_table(rows, tmp_path / "t.parquet")
    assert read_table("sft", tmp_path / "t.parquet") == rows
