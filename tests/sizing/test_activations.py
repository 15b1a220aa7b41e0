"""Predicted activations and logits against real models: what autograd saves, and what is alive at the peak."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3MoeConfig,
)

import bai_pipeline.ppo.math as ppo_math
from bai_pipeline.sizing.activations import (
    backward_workspace,
    forward_logits,
    forward_workspace,
    kept_activations,
    training_logits,
)
from bai_pipeline.sizing.footprint import ELEMENT_BYTES, Dtype
from bai_pipeline.sizing.shape import ModelShape, read_shape
from tests.sizing.live_bytes import peak_of, saved_by

ROWS, LENGTH, LAYERS = 2, 128, 4
TOKENS = ROWS * LENGTH
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE: dict[str, Any] = {"head_dim": 24}
"""Heads that are wider than the hidden size divided by their number."""
FAMILIES: dict[str, Callable[[int], PreTrainedConfig]] = {
    "llama": lambda v: LlamaConfig(vocab_size=v, **SIZES),
    "mixtral": lambda v: MixtralConfig(vocab_size=v, **SIZES, num_local_experts=4),
    "olmoe": lambda v: OlmoeConfig(vocab_size=v, **SIZES, num_experts=8, num_experts_per_tok=2),
    "qwen3_moe": lambda v: Qwen3MoeConfig(
        vocab_size=v, **SIZES, **WIDE, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=48
    ),
}
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def build(family: str, dtype: Dtype, vocabulary: int = 64) -> tuple[PreTrainedModel, ModelShape, torch.Tensor]:
    config = FAMILIES[family](vocabulary)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # transformers
        config, dtype=getattr(torch, dtype)
    )
    model.train(False)
    if family != "llama":
        model.set_experts_implementation("grouped_mm")
    return model, read_shape(config.to_dict(), family), torch.randint(vocabulary, (ROWS, LENGTH))


def checkpoint_layers(model: Any) -> None:
    """As `bai_pipeline.ppo.engines` does it: the layers alone are in training mode."""
    model.activation_checkpointing_enable()
    for layer in model.model.layers:
        layer.training = True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_what_autograd_saves(family: str, dtype: Dtype) -> None:
    model, shape, ids = build(family, dtype)
    saved = saved_by(lambda: model.model(input_ids=ids, use_cache=False).last_hidden_state, list(model.parameters()))
    assert kept_activations(shape, TOKENS, dtype, checkpointing=False) == pytest.approx(saved, rel=0.03)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_where_the_vocabulary_is_small_the_peak_is_in_a_layer(family: str, dtype: Dtype, checkpointing: bool) -> None:
    model, shape, ids = build(family, dtype, vocabulary=16)
    predicted = kept_activations(shape, TOKENS, dtype, checkpointing=checkpointing)
    predicted += backward_workspace(shape, TOKENS, dtype, checkpointing=checkpointing)
    predicted += TOKENS * 16 * ELEMENT_BYTES[dtype]
    assert predicted == pytest.approx(peak_of_loss(model, ids, checkpointing=checkpointing), rel=0.12)


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_where_the_vocabulary_is_large_the_peak_is_in_the_loss(
    family: str, dtype: Dtype, checkpointing: bool, bonus: bool
) -> None:
    model, shape, ids = build(family, dtype, vocabulary=8192)
    predicted = kept_activations(shape, TOKENS, dtype, checkpointing=checkpointing)
    predicted += training_logits(shape, TOKENS, dtype, entropy_bonus=bonus)
    assert predicted == pytest.approx(peak_of_loss(model, ids, checkpointing=checkpointing, bonus=bonus), rel=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities_without_a_gradient_cost_the_logits_and_their_softmax(dtype: Dtype) -> None:
    model, shape, ids = build("llama", dtype, vocabulary=8192)

    @torch.no_grad()
    def compute() -> torch.Tensor:
        return ppo_math.token_logprobs(model(input_ids=ids, use_cache=False).logits.float(), ids)

    assert forward_logits(shape, TOKENS) == pytest.approx(peak_of(compute, list(model.parameters())), rel=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "olmoe"])
def test_a_forward_pass_needs_no_more_than_a_layer_would_keep(family: str, dtype: Dtype) -> None:
    model, shape, ids = build(family, dtype)

    @torch.no_grad()
    def compute() -> torch.Tensor:
        hidden: torch.Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    peak = peak_of(compute, list(model.parameters()))
    assert 0.4 * peak < forward_workspace(shape, TOKENS, dtype) < 2.5 * peak


def peak_of_loss(model: Any, ids: torch.Tensor, *, checkpointing: bool, bonus: bool = False) -> int:
    """Most bytes alive in forward and backward pass of the policy's loss, without weights and their gradients."""
    if checkpointing:
        checkpoint_layers(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        logprobs, entropy = ppo_math.logprobs_and_entropy(logits.float(), ids)
        return logprobs.mean() + entropy.mean() * 0.01 if bonus else logprobs.mean()

    def step() -> None:
        output = model(input_ids=ids, use_cache=False)
        loss(output.logits).backward()  # type: ignore[no-untyped-call]  # torch

    parameters = list(model.parameters())
    return peak_of(step, [*parameters, *(p.grad for p in parameters)])
