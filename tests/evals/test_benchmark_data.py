"""Reading a benchmark's data from disk: kinds of file, what is wrong with them, and digests."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from bai_pipeline.errors import DataError
from bai_pipeline.eval_settings import benchmark_directory, data_root
from bai_pipeline.evals.data import (
    digest_of,
    has_split,
    read_split,
    validate_rows,
)

ROWS: list[dict[str, Any]] = [{"id": "a", "options": ["x", "y"]}, {"id": "b", "options": []}]


class Row(BaseModel):
    id: str
    answer: Annotated[int, Field(ge=0, le=3)]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_benchmarks_are_kept_where_the_environment_says_else_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BAI_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert benchmark_directory("mmlu") == tmp_path / "benchmarks" / "mmlu"
    assert benchmark_directory("mmlu", Path("there")) == Path("there/benchmarks/mmlu")
    monkeypatch.setenv("BAI_DATA", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert data_root() == tmp_path / "home" / ".cache" / "bai_pipeline" / "data"


def test_the_same_rows_are_read_from_json_lines_json_and_parquet(tmp_path: Path) -> None:
    for name in ("lines", "list", "parquet"):
        (tmp_path / name).mkdir()
    (tmp_path / "lines" / "test.jsonl").write_text("\ufeff\n" + lines(ROWS) + "\n", encoding="utf-8")
    (tmp_path / "list" / "test.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "parquet" / "test.parquet")
    for name in ("lines", "list", "parquet"):
        assert read_split(tmp_path / name, "test") == ROWS


def test_an_object_of_rows_gives_them_their_keys(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text('{"0": {"prompt": "p"}, "1": {"prompt": "q", "id": "own"}}')
    assert read_split(tmp_path, "test") == [{"id": "0", "prompt": "p"}, {"id": "own", "prompt": "q"}]


def test_values_of_csv_are_text(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_bytes(b'\xef\xbb\xbfid,question\r\n1,"two\nlines, NA"\r\n')
    assert read_split(tmp_path, "test") == [{"id": "1", "question": "two\nlines, NA"}]


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        table = pa.Table.from_pylist([{"n": number}])
        pq.write_table(table, tmp_path / f"test-0000{number}-of-00003.parquet")
    assert read_split(tmp_path, "test") == [{"n": 0}, {"n": 1}, {"n": 2}]
    (tmp_path / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"expected 3 shards .* absent: test-00001-of-00003.parquet"):
        read_split(tmp_path, "test")


def test_values_of_parquet_are_plain_python(tmp_path: Path) -> None:
    moment = datetime(2024, 6, 30, 12, 0, tzinfo=UTC)
    frame = pd.DataFrame(
        {
            "numbers": [np.array([1, 2])],
            "nested": [{"task": [{"name": "sum", "when": moment}], "none": None}],
            "when": [moment],
            "nanoseconds": [pd.Timestamp("2024-06-30T12:00:00.000000001")],
            "day": [date(2024, 6, 30)],
            "price": [Decimal("1.25")],
        }
    )
    frame.to_parquet(tmp_path / "test.parquet")
    (row,) = read_split(tmp_path, "test")
    assert row == {
        "numbers": [1, 2],
        "nested": {"task": [{"name": "sum", "when": "2024-06-30T12:00:00+00:00"}], "none": None},
        "when": "2024-06-30T12:00:00+00:00",
        "nanoseconds": "2024-06-30T12:00:00.000000001",
        "day": "2024-06-30",
        "price": 1.25,
    }
    assert json.loads(json.dumps(row)) == row


def test_a_directory_that_looks_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    directory = tmp_path / "benchmark=mmlu"
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist([{"n": 1}]), directory / "test.parquet")
    assert read_split(directory, "test") == [{"n": 1}]


# Characters at which str.splitlines ends a line, though JSON may hold them as they are.
@given(st.lists(st.text(alphabet=st.sampled_from('a"\\\n\r\u2028\x85é')), min_size=1))
def test_any_text_survives_json_lines(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    directory = tmp_path_factory.mktemp("rows")
    content = "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (directory / "test.jsonl").write_bytes(content.encode())
    assert [row["text"] for row in read_split(directory, "test")] == texts


def test_what_is_absent_is_told_with_the_place_and_the_command(tmp_path: Path) -> None:
    directory = tmp_path / "mmlu"
    with pytest.raises(DataError) as absent:
        read_split(directory, "test")
    for text in (str(directory), "no such directory", "test.jsonl", "test.parquet", "`bai data fetch mmlu`"):
        assert text in str(absent.value)
    directory.mkdir()
    (directory / "dev.jsonl").write_text(lines(ROWS))
    (directory / "source.json").write_text("{}")
    with pytest.raises(DataError, match=r"'test' of the benchmark 'mmlu' .* a directory with dev.jsonl, source.json"):
        read_split(directory, "test")
    assert (has_split(directory, "dev"), has_split(directory, "test")) == (True, False)
    assert not has_split(directory, "source")


@pytest.mark.parametrize("other", ["test.parquet", "test-00000-of-00001.jsonl"])
def test_two_files_of_one_split_are_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "test.jsonl").write_text(lines(ROWS))
    (tmp_path / other).write_text("")
    with pytest.raises(DataError, match=r"one file or one set of shards") as caught:
        read_split(tmp_path, "test")
    assert other in str(caught.value)
    assert "test.jsonl" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.jsonl", b'{"a": 1}\n\n{"a": \n', "cannot read line 3 of .*test.jsonl"),
        ("test.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "cannot read line 2 of .*test.jsonl.*utf-8"),
        ("test.jsonl", b"[1]\n", r"expected an object, got \[1\] in line 1"),
        ("test.json", b'[\n{"a": 1},\n{"a" 2}]', "cannot read line 3 of .*test.json"),
        ("test.json", b"\xff", "cannot read .*test.json.*utf-8"),
        ("test.json", b"3", "expected a list of rows or an object of rows by id"),
        ("test.json", b'{"0": 1}', "expected an object, got 1 in item '0'"),
        ("test.parquet", b"PAR1", "cannot read .*test.parquet"),
        ("test.csv", b"a,b\n1,2\n1\n", "expected 2 values, got 1 in the record that ends in line 3"),
        ("test.csv", b"a,b\n1,2,3,4\n", "expected 2 values, got 4 in the record that ends in line 2"),
        ("test.csv", b'a,b\n1,"2\n', "cannot read .*test.csv"),
        ("test.csv", b"", "expected rows .* got none"),
        ("test.jsonl", b"\n", "expected rows .* got none"),
        ("test.json", b"[]", "expected rows .* got none"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, "test")


def test_the_digest_is_of_the_split_files_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        digest_of(tmp_path / "absent")
    (tmp_path / "test.jsonl").write_text("1")
    (tmp_path / "dev.jsonl").write_text("2")
    digest = digest_of(tmp_path)
    assert len(digest) == 64
    for other in ("source.json", "README.md", ".hidden.jsonl"):
        (tmp_path / other).write_text("{}")
    assert digest_of(tmp_path) == digest
    (tmp_path / "test.jsonl").write_text("3")
    assert digest_of(tmp_path) != digest


def test_no_two_directories_share_a_digest(tmp_path: Path) -> None:
    # Names and bytes that are the same once they are put one after the other.
    contents = [
        {"a.json": "1", "b.json": "2"},
        {"a.json": "2", "b.json": "1"},
        {"a.json": "1b.json2"},
        {"c.json": "1b.json2"},
        {"a.json": "", "b.json": "12"},
        {"b.json": "1", "a.json": "2x"},
    ]
    digests = set()
    for number, files in enumerate(contents):
        (tmp_path / str(number)).mkdir()
        for name, content in files.items():
            (tmp_path / str(number) / name).write_text(content)
        digests.add(digest_of(tmp_path / str(number)))
    assert len(digests) == len(contents)


def test_valid_rows_become_models(tmp_path: Path) -> None:
    rows = [{"id": "a", "answer": 0}, {"id": "a", "answer": 3, "more": None}]
    assert validate_rows(rows, Row, tmp_path) == [Row(id="a", answer=0), Row(id="a", answer=3)]


def test_every_fault_of_rows_is_told_at_once(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "answer": 4},
        {"answer": "x" * 200},
        {"id": "a", "answer": 1},
        {"id": "a"},
    ]
    rows.append({"id": "a", "answer": 2})
    with pytest.raises(DataError) as caught:
        validate_rows(rows, Row, tmp_path / "test.jsonl", key=lambda row: row.id)
    told = str(caught.value).splitlines()
    assert told[0] == f"{tmp_path}/test.jsonl is not the benchmark's data; nothing was evaluated:"
    assert told[1] == "  row 0: answer: Input should be less than or equal to 3, got 4"
    assert told[2] == "  row 1: id: Field required, got no such field"
    assert told[3].startswith("  row 1: answer: Input should be a valid integer")
    assert told[3].endswith("xxx…")
    assert len(told[3]) < 200
    assert told[4] == "  row 3: answer: Field required, got no such field"
    assert told[5] == "  row 4: 'a' stands in row 2 already"
    assert len(told) == 6


def test_twenty_faults_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        validate_rows([{"answer": 1}] * 25, Row, tmp_path)
    told = str(caught.value).splitlines()
    assert len(told) == 1 + 20 + 1
    assert told[20].startswith("  row 19")
    assert told[21] == "  … and 5 more"
