import json
from pathlib import Path

import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.evals import read_benchmark


def line(name: str = "p0", prompt: str = "sum a 4 b 7", answer: str = "1", **changes: object) -> str:
    row = {"id": name, "messages": [{"role": "user", "content": prompt}], "prompt": prompt, "answer": answer}
    return json.dumps(row | changes)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
    return path


def test_a_benchmark_is_read_in_the_order_of_its_lines(tmp_path: Path) -> None:
    problems = read_benchmark(write(tmp_path / "b.jsonl", line("second"), line("first", "max a 9 b 2", "9")))
    assert [p.id for p in problems] == ["second", "first"]
    assert (problems[1].prompt, problems[1].answer) == ("max a 9 b 2", "9")


def test_every_faulty_line_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "b.jsonl",
        line("a"),
        line("b", answer=" 1"),
        line("c", messages=[{"role": "user", "content": "something else"}]),
        line("d", messages=[{"role": "system", "content": "x"}]),
        line("e", difficulty=3),
        line("a"),
        line("f", answer="12"),
        line("g", answer=""),
    )
    with pytest.raises(DataError) as error:
        read_benchmark(path)
    assert str(path) in str(error.value)
    for fault in (
        "line 2: answer ' 1' of 'b' is not one digit",
        "line 3: prompt",
        "line 4: messages",
        "line 5: difficulty",
        "id 'a' occurs 2",
        "line 7: answer '12' of 'f' is not one digit",
        "line 8: answer '' of 'g' is not one digit",
    ):
        assert fault in str(error.value)


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_absent_file_is_an_error(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "b.jsonl"
    if exists:
        path.touch()
    with pytest.raises(DataError, match="nothing was evaluated"):
        read_benchmark(path)
