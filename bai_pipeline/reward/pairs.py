"""Tokenized preference pairs and the Bradley-Terry loss."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from bai_pipeline.errors import DataError
from bai_pipeline.sft.examples import attention_mask, check_length, encode_answer, pad_right
from bai_pipeline.tables import read_table


class Pair(TypedDict):
    """Two whole conversations that differ in the last answer, end token included, and the prompt that they share."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Pairs(Dataset[Pair]):
    """Pairs in memory."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pair:
        return self._pairs[index]


def read_pairs(data: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Pair]:
    """The pairs of a preferences table {prompt, chosen, rejected}.

    Raises:
        DataError: the table breaks its schema, or a conversation is longer than `max_length` tokens.
    """
    pairs: list[Pair] = []
    for row, record in enumerate(read_table("preferences", data)):
        both = []
        for column in ("chosen", "rejected"):
            prompt, answer = encode_answer(tokenizer, record["prompt"], record[column], data, row)
            check_length(prompt + answer, max_length, data, row)
            both.append(prompt + answer)
        pairs.append({"prompt": prompt, "chosen": both[0], "rejected": both[1]})
    return pairs


def hold_back(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on and pairs held back to test and normalise on: an eighth, but 32 where a quarter allows it.

    The pairs of a prompt are all on one side. Prompts are held back in a random order as long as theirs fit; where no
    prompt's fit, those of one with the fewest.

    Raises:
        DataError: fewer than 8 pairs, or all of one prompt.
    """
    if len(pairs) < 8:
        raise DataError(f"expected at least 8 preference pairs to train on and test with, got {len(pairs)}")
    by_prompt: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(tuple(pair["prompt"]), []).append(pair)
    if len(by_prompt) < 2:
        raise DataError(
            f"expected preference pairs of several prompts to train on and test with, got {len(pairs)} of one"
        )
    groups = list(by_prompt.values())
    random.Random(f"{seed}/held-back pairs").shuffle(groups)
    count = max(len(pairs) // 8, min(32, len(pairs) // 4))
    train: list[Pair] = []
    test: list[Pair] = []
    if min(map(len, groups)) > count:
        test = groups.pop(groups.index(min(groups, key=len)))
    for group in groups:
        (test if len(test) + len(group) <= count else train).extend(group)
    return train, test


class PairCollator:
    """B pairs as one batch of 2 B sequences, the chosen ones first."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        sequences = [pair["chosen"] for pair in pairs] + [pair["rejected"] for pair in pairs]
        return {"input_ids": pad_right(sequences, self.pad_token_id), "attention_mask": attention_mask(sequences)}


def bradley_terry_loss(scores: Tensor) -> Tensor:
    """Mean of −log σ(s_chosen − s_rejected) (Bradley and Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1).

    Args:
        scores: (2 B,), the chosen ones first.
    """
    chosen, rejected = scores.chunk(2)
    return -F.logsigmoid(chosen - rejected).mean()
