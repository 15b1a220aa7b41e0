import random
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from bai_pipeline.errors import DataError
from bai_pipeline.sft.examples import IGNORED, Collator, conversations, encode_answer, packed_documents
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.documents import sample_document
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from bai_pipeline.tables import write_table

USER = {"role": "user", "content": "sum a 4"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def write_documents(path: Path, *texts: str) -> Path:
    write_table([{"id": str(number), "text": text} for number, text in enumerate(texts)], path / "documents.parquet")
    return path / "documents.parquet"


def test_documents_fill_sequences_that_each_start_with_a_document(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = write_documents(tmp_path, "1 2 3", "4 5 6", "7 8 9", "a b c")
    sequences = packed_documents(data, tokenizer, 8)
    examples = [sequences[index] for index in range(len(sequences))]
    texts = [tokenizer.decode(example["input_ids"]) for example in examples]
    assert texts == ["<bos> 1 2 3 <eos> <bos> 4 5", "<bos> 7 8 9 <eos> <bos> a b"]
    assert all(example["labels"] == example["input_ids"] for example in examples)


def test_documents_have_the_tokens_that_the_tokenizer_gives_them(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    world, rng = load_study("smoke").world, random.Random(0)
    texts = [sample_document(world, rng) for _ in range(300)]
    for text in texts:
        expected = [tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        sequences = packed_documents(write_documents(tmp_path, text), tokenizer, len(expected))
        assert sequences[0]["input_ids"] == expected


def test_a_sequence_that_the_table_leaves_short_is_dropped(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(packed_documents(write_documents(tmp_path, "1 2 3", "4 5"), tokenizer, 5)) == 1


def test_too_few_documents_for_one_sequence_are_an_error(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = write_documents(tmp_path, "1 2 3")
    with pytest.raises(DataError, match=r"expected at least 8 tokens of documents, got 5 in .*documents\.parquet"):
        packed_documents(data, tokenizer, 8)


def test_a_word_that_the_tokenizer_does_not_know_is_an_error_naming_the_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = write_documents(tmp_path, "1 2 3", "1 banana 3")
    with pytest.raises(
        DataError, match=r"a word in row 1 of .*documents\.parquet is not in the tokenizer's vocabulary"
    ):
        packed_documents(data, tokenizer, 4)


def test_a_table_without_text_and_one_that_cannot_be_read_are_errors(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_table([{"id": "0", "content": "1"}], tmp_path / "wrong.parquet")
    with pytest.raises(DataError, match="expected a column text, found id, content"):
        packed_documents(tmp_path / "wrong.parquet", tokenizer, 8)
    with pytest.raises(DataError, match="cannot read"):
        packed_documents(tmp_path / "absent.parquet", tokenizer, 8)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot read"):
        packed_documents(tmp_path / "damaged.parquet", tokenizer, 8)


def test_a_row_without_text_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_table([{"text": "1"}, {"text": None}], tmp_path / "holes.parquet")
    with pytest.raises(DataError, match="expected text, got None in row 1"):
        packed_documents(tmp_path / "holes.parquet", tokenizer, 8)


def test_only_the_answer_and_its_end_token_are_learned(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    write_table([{"messages": [USER, {"role": "assistant", "content": "ans 4"}]}], tmp_path / "chats.parquet")
    example = conversations(tmp_path / "chats.parquet", tokenizer, 16)[0]
    assert tokenizer.decode(example["input_ids"]) == "<bos> <user> sum a 4 <asst> ans 4 <eos>"
    learned = [label for label in example["labels"] if label != IGNORED]
    assert tokenizer.decode(learned) == "ans 4 <eos>"
    assert example["labels"][:6] == [IGNORED] * 6


def test_of_several_answers_only_the_last_is_learned(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [USER, {"role": "assistant", "content": "ans 3"}, USER, {"role": "assistant", "content": "wait ans 4"}]
    write_table([{"messages": turns}], tmp_path / "chats.parquet")
    labels = conversations(tmp_path / "chats.parquet", tokenizer, 32)[0]["labels"]
    assert tokenizer.decode([label for label in labels if label != IGNORED]) == "wait ans 4 <eos>"


def test_an_sft_table_without_messages_is_an_error_naming_file_and_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_table([{"text": "ans 4"}], tmp_path / "chats.parquet")
    with pytest.raises(DataError, match=r"(?s)chats\.parquet is not a sft table.*row 0: messages"):
        conversations(tmp_path / "chats.parquet", tokenizer, 16)


def test_an_example_that_is_too_long_is_an_error_naming_file_and_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"messages": [USER, {"role": "assistant", "content": text}]} for text in ("ans 4", "ok so ans 4")]
    write_table(rows, tmp_path / "chats.parquet")
    assert len(conversations(tmp_path / "chats.parquet", tokenizer, 11)) == 2
    with pytest.raises(
        DataError, match=r"expected at most max_length = 10 tokens, got 11 in row 1 of .*chats\.parquet"
    ):
        conversations(tmp_path / "chats.parquet", tokenizer, 10)


def test_what_a_template_puts_after_the_end_token_is_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    noisy = build_tokenizer()
    noisy.chat_template = (
        "{{ messages[0].content }} :{% if messages|length > 1 %} {{ messages[1].content }} <eos> .{% endif %}"
    )
    prompt, answer = encode_answer(noisy, [USER], "ans 4", Path("x"), 0)
    assert noisy.decode(prompt) == "sum a 4 :"
    assert noisy.decode(answer) == "ans 4 <eos>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages|length }} {{ messages[-1].content }} <eos>", "does not start with the prompt"),
        ("{% for m in messages %}{{ m.content }} {% endfor %}", "does not end the answer in row 7 of x with '<eos>'"),
    ],
)
def test_a_template_that_hides_the_answer_or_never_ends_it_is_an_error(template: str, message: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError, match=message):
        encode_answer(tokenizer, [USER], "ans 4", Path("x"), 7)


def test_a_batch_is_padded_on_the_right_and_masked_only_if_it_has_to_be() -> None:
    collate = Collator(pad_token_id=0)
    short, long = {"input_ids": [5, 6], "labels": [IGNORED, 6]}, {"input_ids": [7, 8, 9], "labels": [IGNORED, 8, 9]}
    batch = collate([short, long])  # type: ignore[list-item]
    assert batch["input_ids"].tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch["labels"].tolist() == [[IGNORED, 6, IGNORED], [IGNORED, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert "attention_mask" not in collate([long, long])  # type: ignore[list-item]
