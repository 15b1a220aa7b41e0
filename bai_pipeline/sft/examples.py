"""Tokenized training examples, from tables, and how a batch is made of them.

B sequences, T tokens; labels are IGNORED where nothing is to be learned, padding is on the right.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from bai_pipeline.errors import DataError
from bai_pipeline.tables import read_table

IGNORED: Final = -100
"""The label that the loss of transformers' models leaves out."""


class Example(TypedDict):
    """One sequence, not padded."""

    input_ids: list[int]
    labels: list[int]


class Examples(Dataset[Example]):
    """Examples in memory."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]


def packed_documents(data: Path, tokenizer: PreTrainedTokenizerBase, length: int) -> Examples:
    """Documents of a table {text} as sequences of exactly `length` tokens, all of them to be learned.

    For tokenizers whose tokens are words between white space, as that of the embedded world.
    Each document stands between the begin and the end token. A sequence starts with a document and is filled with the
    following ones; the last is cut, and what is cut off is dropped, so that no sequence starts in the middle of a
    document. A sequence that the table's end leaves short is dropped.

    Raises:
        DataError: a column or word that is missing, or too few documents for a single sequence.
    """
    sequences: list[Example] = []
    pending: list[int] = []
    vocabulary, unknown = tokenizer.get_vocab(), tokenizer.unk_token_id
    begin, end = ([] if token is None else [token] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    for row, text in enumerate(_texts(data)):
        # As the tokenizer does, which takes twenty times as long.
        ids = [vocabulary.get(word, unknown) for word in text.split()]
        _check_known(ids, unknown, data, row)
        pending += begin + ids + end
        if len(pending) >= length:
            sequence = pending[:length]
            sequences.append({"input_ids": sequence, "labels": sequence})
            pending = []
    if not sequences:
        raise DataError(f"expected at least {length} tokens of documents, got {len(pending)} in {data}")
    return Examples(sequences)


def conversations(data: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """Conversations of an SFT table {messages}; what is learned is the last answer with its end token.

    Raises:
        DataError: the table breaks its schema, or an example is longer than `max_length` tokens.
    """
    examples: list[Example] = []
    for row, record in enumerate(read_table("sft", data)):
        messages = record["messages"]
        prompt, answer = encode_answer(tokenizer, messages[:-1], messages[-1]["content"], data, row)
        ids = prompt + answer
        check_length(ids, max_length, data, row)
        examples.append({"input_ids": ids, "labels": [IGNORED] * len(prompt) + answer})
    return Examples(examples)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]]) -> list[int]:
    """The tokens of a conversation up to where the assistant's answer starts."""
    text = tokenizer.apply_chat_template([dict(turn) for turn in prompt], add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], answer: str, data: Path, row: int
) -> tuple[list[int], list[int]]:
    """The tokens of a conversation up to the assistant's answer, and those of the answer with its end token.

    Args:
        data, row: where the conversation stands, for messages.

    Raises:
        DataError: the chat template does not put the answer right after the prompt, or does not end it.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    turns = [*map(dict, prompt), {"role": "assistant", "content": answer}]
    ids = list(tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"])
    if ids[: len(prompt_ids)] != prompt_ids:
        raise DataError(
            f"the chat template renders row {row} of {data} so that the conversation does not start with the prompt"
        )
    answer_ids = ids[len(prompt_ids) :]
    if tokenizer.eos_token_id not in answer_ids:
        raise DataError(
            f"the chat template does not end the answer in row {row} of {data} with {tokenizer.eos_token!r}; a model "
            "trained on it would never stop"
        )
    last = len(answer_ids) - answer_ids[::-1].index(tokenizer.eos_token_id)
    _check_known(ids, tokenizer.unk_token_id, data, row)
    return prompt_ids, answer_ids[:last]


def check_length(ids: Sequence[int], max_length: int, data: Path, row: int) -> None:
    """Raise DataError if a training example is too long to be learned whole."""
    if len(ids) > max_length:
        raise DataError(f"expected at most max_length = {max_length} tokens, got {len(ids)} in row {row} of {data}")


def pad_right(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    """Sequences as one tensor (B, T), filled up with `value`."""
    padded = torch.full((len(sequences), max(map(len, sequences))), value)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = torch.tensor(sequence)
    return padded


def attention_mask(sequences: Sequence[Sequence[int]]) -> Tensor:
    """1 on the tokens of `pad_right`'s result and 0 on its padding: (B, T)."""
    return pad_right([[1] * len(sequence) for sequence in sequences], 0)


class Collator:
    """A batch of `Example`s; of equal lengths they need no attention mask and get none, which is faster."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        sequences = [example["input_ids"] for example in examples]
        batch = {
            "input_ids": pad_right(sequences, self.pad_token_id),
            "labels": pad_right([example["labels"] for example in examples], IGNORED),
        }
        if len({len(sequence) for sequence in sequences}) > 1:
            batch["attention_mask"] = attention_mask(sequences)
        return batch


def _texts(data: Path) -> Iterator[str]:
    """The column `text` of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(data)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"cannot read {data}: {error}") from error
    if "text" not in table.column_names:
        raise DataError(f"expected a column text, found {', '.join(table.column_names)} in {data}")
    for row, text in enumerate(table.column("text").to_pylist()):
        if not isinstance(text, str):
            raise DataError(f"expected text, got {text!r} in row {row} of {data}")
        yield text


def _check_known(ids: Sequence[int], unknown: int | None, data: Path, row: int) -> None:
    if unknown in ids:
        raise DataError(f"a word in row {row} of {data} is not in the tokenizer's vocabulary")
