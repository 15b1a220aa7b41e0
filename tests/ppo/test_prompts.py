"""Which prompts a step uses, and what a prompts table may hold."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from bai_pipeline.errors import DataError
from bai_pipeline.ppo.prompts import Prompt, PromptTable, load_prompts
from bai_pipeline.synthetic.world_tables import VERIFIER
from bai_pipeline.tables import write_table


def numbered(count: int, seed: int = 0) -> PromptTable:
    return PromptTable([Prompt(str(index), [], None, None, [1]) for index in range(count)], seed)


def ids(table: PromptTable, step: int, size: int) -> list[str]:
    return [prompt.id for prompt in table.batch(step, size)]


def test_every_prompt_comes_once_an_epoch() -> None:
    table = numbered(10)
    sequence = [name for step in range(10) for name in ids(table, step, 4)]
    for epoch in range(4):
        assert sorted(sequence[10 * epoch : 10 * epoch + 10], key=int) == [str(index) for index in range(10)]


def test_epochs_have_different_orders() -> None:
    assert ids(numbered(10), 0, 10) != ids(numbered(10), 1, 10)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    forwards, backwards = numbered(10), numbered(10)
    there = [ids(forwards, step, 3) for step in range(9)]
    back = [ids(backwards, step, 3) for step in reversed(range(9))]
    assert there == back[::-1]
    assert ids(numbered(10, seed=1), 0, 10) != ids(numbered(10), 0, 10)


def test_a_batch_may_be_larger_than_the_table() -> None:
    assert sorted(ids(numbered(2), 0, 6)) == ["0", "0", "0", "1", "1", "1"]


def test_a_prompt_is_templated_up_to_the_answer(world: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    table = load_prompts(world / "prompts.parquet", tokenizer, max_prompt_tokens=16, seed=0)
    prompts = {prompt.id: prompt for prompt in table.batch(0, 11)}
    assert tokenizer.decode(prompts["p1"].tokens) == "<bos> <user> sum a 1 b 0 c 1 <asst>"


def test_correctness_is_told_by_the_verifier_and_unknown_without_one(
    world: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    table = load_prompts(world / "prompts.parquet", tokenizer, max_prompt_tokens=16, seed=0)
    prompts = {prompt.id: prompt for prompt in table.batch(0, 11)}
    assert table.has_answers
    assert prompts["p5"].is_correct("b 4 + 1 = 5 , ans 5") is True
    assert prompts["p5"].is_correct("ans 6") is False
    assert prompts["p0"].is_correct("ans 0") is None


def test_a_prompt_that_is_too_long_is_named(world: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="prompt 'p0' has 8 tokens, max_prompt_tokens is 7"):
        load_prompts(world / "prompts.parquet", tokenizer, max_prompt_tokens=7, seed=0)


def test_an_unknown_verifier_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    row = {"id": "x", "messages": [{"role": "user", "content": "sum a 1"}], "answer": "1", "verifier": "oracle"}
    write_table([row], tmp_path / "prompts.parquet")
    with pytest.raises(DataError, match=f"names verifier 'oracle'; known are {VERIFIER}"):
        load_prompts(tmp_path / "prompts.parquet", tokenizer, max_prompt_tokens=16, seed=0)


@pytest.mark.parametrize("answer", ["12", "", " 1", "x"])
def test_an_answer_that_no_response_can_give_is_named_where_the_verifier_is(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, answer: str
) -> None:
    path, turns = tmp_path / "prompts.parquet", [{"role": "user", "content": "sum a 1"}]
    row = {"id": "x", "messages": turns, "answer": answer}
    other = {"id": "y", "messages": turns, "answer": "1", "verifier": VERIFIER}
    write_table([{**row, "verifier": None}, other], path)
    assert load_prompts(path, tokenizer, max_prompt_tokens=16, seed=0).has_answers
    write_table([other, {**row, "verifier": VERIFIER}], path)
    with pytest.raises(
        DataError, match=rf"prompts\.parquet: no response to prompt 'x' can be right: .* got '{answer}'"
    ):
        load_prompts(path, tokenizer, max_prompt_tokens=16, seed=0)


def test_a_verified_reward_needs_a_verifier_for_every_prompt(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "prompts.parquet"
    turns = [{"role": "user", "content": "sum a 1"}]
    rows = [{"id": name, "messages": turns, "answer": "1", "verifier": VERIFIER} for name in "ab"]
    write_table(rows, path)
    load_prompts(path, tokenizer, max_prompt_tokens=16, seed=0, verified=True)
    write_table([rows[0], {**rows[1], "verifier": None}], path)
    with pytest.raises(DataError, match=f"prompt 'b' names none; known are {VERIFIER}"):
        load_prompts(path, tokenizer, max_prompt_tokens=16, seed=0, verified=True)
