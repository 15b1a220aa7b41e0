"""Sequences without padding: what a model says of them is what it says of each alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

from bai_pipeline.errors import CheckpointError
from bai_pipeline.loading.unpadded import read_unpadded, unpadded

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "olmoe": lambda: OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2),
    "mixtral": lambda: MixtralConfig(**SIZES, num_local_experts=4),
    "mixtral, sliding window": lambda: MixtralConfig(**SIZES, num_local_experts=4, sliding_window=3),
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
}
LENGTHS = [3, 3, 7, 1, 6]


def build(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers
        FAMILIES[family]()
    )
    return model.eval()  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_each_sequence_alone(family: str, checkpointing: bool) -> None:
    model = build(family)
    tokens = torch.randint(3, 32, (len(LENGTHS), max(LENGTHS)))
    alone = [model(row[None, :length], use_cache=False).logits[0] for row, length in zip(tokens, LENGTHS, strict=True)]
    expected = torch.cat(alone)
    expected.square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    read_unpadded(model)
    if checkpointing:
        model.activation_checkpointing_enable()
        model.train()
    found = model(**unpadded(tokens, LENGTHS)).logits[0]
    torch.testing.assert_close(found, expected)
    found.square().mean().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_sequences_are_read_as_before(family: str) -> None:
    """With masks on either side, and with a cache."""
    tokens = torch.randint(3, 32, (2, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    found = []
    for model in (build(family), read_unpadded(build(family))):
        for options in ({}, {"attention_mask": mask}, {"attention_mask": mask.flip(1)}):
            found.append(model(tokens, **options).logits[mask.bool()])
        first = model(tokens[:, :3], attention_mask=mask[:, :3], use_cache=True)
        rest = model(tokens[:, 3:], attention_mask=mask, past_key_values=first.past_key_values)
        found.append(rest.logits)
    for before, after in zip(found[:4], found[4:], strict=True):
        torch.testing.assert_close(after, before)


def test_a_model_that_reads_unpadded_is_saved_without_a_word_of_it(tmp_path: Any) -> None:
    read_unpadded(build("olmoe")).save_pretrained(tmp_path)
    assert "unpadded" not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_a_family_with_other_ways_between_tokens_is_refused() -> None:
    model = build("olmoe")
    model._is_stateful = True
    with pytest.raises(CheckpointError, match="OlmoeForCausalLM cannot read sequences one behind the other"):
        read_unpadded(model)
