import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bai_pipeline.errors import DataError
from bai_pipeline.settings import WorldSettings
from bai_pipeline.synthetic.tasks import is_held_out, parse_prompt, solve, verify
from bai_pipeline.synthetic.world_tables import (
    Style,
    held_out_problems,
    write_benchmark_data,
    write_pretraining_data,
    write_prompts,
    write_sft_data,
)
from bai_pipeline.tables import read_table

STYLES: dict[str, Style] = {"instruct": "instruct", "reasoning": "reasoning"}


def write_all(out: Path, world: WorldSettings, seed: int) -> dict[str, bytes]:
    out.mkdir()
    write_pretraining_data(out, world, seed)
    write_sft_data(out, world, STYLES, seed)
    write_prompts(out, world, seed)
    write_benchmark_data(out, world, ["held_out_sum"], seed)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(tmp_path: Path, world: WorldSettings) -> None:
    first, again, other = (write_all(tmp_path / str(i), world, seed) for i, seed in enumerate((0, 0, 1)))
    assert first == again
    assert set(first) == {
        "pretraining.parquet",
        "instruct.parquet",
        "reasoning.parquet",
        "prompts.parquet",
        "held_out_sum/test.jsonl",
    }
    assert all(first[name] != other[name] for name in first)


def test_pretraining_documents_have_ids_and_text(tmp_path: Path, world: WorldSettings) -> None:
    metadata = write_pretraining_data(tmp_path, world, 0)
    rows = pq.read_table(tmp_path / "pretraining.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == metadata["documents"] == 400
    assert metadata["words"] == sum(len(row["text"].split()) for row in rows)


def test_sft_examples_are_right_answers_in_the_style_of_their_role(tmp_path: Path, world: WorldSettings) -> None:
    write_sft_data(tmp_path, world, STYLES, 0)
    for role in STYLES:
        rows = read_table("sft", tmp_path / f"{role}.parquet")
        assert len(rows) == 60
        for row in rows:
            question, answer = (message["content"] for message in row["messages"])
            problem = parse_prompt(question)
            assert problem is not None
            assert not is_held_out(problem, world)
            assert verify(answer, str(solve(problem)))
            assert answer.startswith("<think>") is (role == "reasoning")
            if role == "instruct" and problem.task == "max":
                assert answer == f"ans {solve(problem)}"


def test_two_roles_of_one_style_have_different_data(tmp_path: Path, world: WorldSettings) -> None:
    write_sft_data(tmp_path, world, {"first": "instruct", "second": "instruct"}, 0)
    first, second = (read_table("sft", tmp_path / f"{role}.parquet") for role in ("first", "second"))
    assert [row["messages"] for row in first] != [row["messages"] for row in second]


def test_prompts_ask_training_problems_and_know_their_answers(tmp_path: Path, world: WorldSettings) -> None:
    write_prompts(tmp_path, world, 0)
    rows = read_table("prompts", tmp_path / "prompts.parquet")
    assert len(rows) == 50
    for row in rows:
        problem = parse_prompt(row["messages"][0]["content"])
        assert problem is not None
        assert not is_held_out(problem, world)
        assert row["answer"] == str(solve(problem))
        assert row["verifier"] == "final_answer"


def test_prompts_of_another_purpose_are_others_and_as_many_as_asked_for(tmp_path: Path, world: WorldSettings) -> None:
    write_prompts(tmp_path, world, 0)
    ppo = read_table("prompts", tmp_path / "prompts.parquet")
    assert write_prompts(tmp_path, world, 0, purpose="preferences", count=20) == {"prompts": 20}
    other = read_table("prompts", tmp_path / "prompts.parquet")
    assert [row["messages"] for row in other] != [row["messages"] for row in ppo[:20]]


def test_benchmarks_are_different_held_out_problems_of_one_task(tmp_path: Path, world: WorldSettings) -> None:
    names = ["held_out_sum", "held_out_alt", "held_out_max"]
    metadata = write_benchmark_data(tmp_path, world, names, 0)
    assert metadata == {f"{name}_problems": 10 for name in names}
    for name in names:
        rows = [json.loads(line) for line in (tmp_path / name / "test.jsonl").read_text().splitlines()]
        assert len({row["prompt"] for row in rows}) == 10
        for row in rows:
            problem = parse_prompt(row["prompt"])
            assert problem is not None
            assert problem.task == name.removeprefix("held_out_")
            assert is_held_out(problem, world)
            assert row["messages"] == [{"role": "user", "content": row["prompt"]}]
            assert row["answer"] == str(solve(problem))


def test_an_unknown_benchmark_is_named_and_nothing_is_written(tmp_path: Path, world: WorldSettings) -> None:
    with pytest.raises(DataError, match="got held_out_mean; nothing was written"):
        write_benchmark_data(tmp_path, world, ["held_out_sum", "held_out_mean"], 0)
    assert list(tmp_path.iterdir()) == []


def test_a_world_with_too_few_held_out_problems_says_how_many_it_has(world: WorldSettings) -> None:
    one_digit = world.model_copy(update={"operands_min": 1, "operands_max": 1})
    with pytest.raises(
        DataError, match=r"expected 10 held-out problems of the task 'sum', found \d with 1 to 1 operands"
    ):
        held_out_problems(one_digit, "sum", 10, 0)
