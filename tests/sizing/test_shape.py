"""Parameter counts against transformers' own models, which are built without weights (on the meta device)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import bai_pipeline.reward.model  # noqa: F401  (registers OLMoE's sequence classifier)
from bai_pipeline.errors import CheckpointError
from bai_pipeline.sizing.shape import OLMOE_VOCABULARY, ModelShape, read_shape, shape_of_settings
from bai_pipeline.study import load_study

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WIDE: dict[str, Any] = {"head_dim": 12}
"""Heads that are wider than the hidden size divided by their number."""
CONFIGS = {
    "olmoe": OlmoeConfig(),
    "olmoe-1b-7b": OlmoeConfig(intermediate_size=1024),
    "olmoe-small": OlmoeConfig(**SMALL, num_experts=6, num_experts_per_tok=2, attention_bias=True),
    "qwen3-moe": Qwen3MoeConfig(),
    "qwen3-moe-mixed": Qwen3MoeConfig(
        **SMALL, **WIDE, num_experts=4, moe_intermediate_size=20, mlp_only_layers=[0], decoder_sparse_step=1
    ),
    "qwen3-moe-every-second": Qwen3MoeConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=20, decoder_sparse_step=2
    ),
    "mixtral": MixtralConfig(),
    "mixtral-small": MixtralConfig(**SMALL, **WIDE, num_local_experts=4, tie_word_embeddings=True),
    "llama": LlamaConfig(),
    "llama-biased": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, **WIDE),
}


def build(auto_class: Any, config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(config)
    return model


def shape_of(config: PreTrainedConfig) -> ModelShape:
    return read_shape(config.to_dict(), "a test")


def count(model: PreTrainedModel) -> int:
    """Elements of all parameters; `parameters()` gives one that is tied once."""
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model_that_transformers_builds(name: str) -> None:
    config = CONFIGS[name]
    assert shape_of(config).parameters() == count(build(AutoModelForCausalLM, config))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_critic_has_a_score_head_in_the_place_of_the_language_head(name: str) -> None:
    config = CONFIGS[name].__class__.from_dict({**CONFIGS[name].to_dict(), "num_labels": 1})
    assert shape_of(config).parameters("score") == count(build(AutoModelForSequenceClassification, config))


@pytest.mark.parametrize("name", CONFIGS)
def test_active_parameters_leave_out_the_experts_that_a_token_does_not_meet(name: str) -> None:
    config = CONFIGS[name]
    model = build(AutoModelForCausalLM, config)
    experts = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n)
    total, chosen = (getattr(config, "num_experts", None) or 1), (getattr(config, "num_experts_per_tok", None) or 1)
    assert shape_of(config).active_parameters() == count(model) - experts * (total - chosen) // total


@pytest.mark.parametrize("name", CONFIGS)
def test_the_largest_module_is_the_one_that_deepspeed_finds(name: str) -> None:
    model = build(AutoModelForCausalLM, CONFIGS[name])
    # deepspeed.runtime.zero.stage3.model_to_params
    largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
    assert shape_of(CONFIGS[name]).largest_module() == largest


def test_published_sizes_are_met() -> None:
    olmoe, mixtral, qwen = (shape_of(CONFIGS[name]) for name in ("olmoe-1b-7b", "mixtral", "qwen3-moe"))
    # OLMoE-1B-7B: 6.9B and 1.3B (arXiv:2409.02060, table 1); Mixtral 8x7B: 47B and 13B (arXiv:2401.04088, section 1).
    assert [round(n / 1e9, 1) for n in (olmoe.parameters(), olmoe.active_parameters())] == [6.9, 1.3]
    assert [round(n / 1e9) for n in (mixtral.parameters(), mixtral.active_parameters())] == [47, 13]
    # Qwen3-MoE-15B-A2B, of which transformers' defaults are the shape: 15B and 2B.
    assert [round(n / 1e9) for n in (qwen.parameters(), qwen.active_parameters())] == [15, 2]


def test_the_presets_describe_models_of_the_sizes_that_they_are_named_for() -> None:
    olmoe, paper = (
        shape_of_settings(load_study(name, require_paths=False).model, OLMOE_VOCABULARY)
        for name in ("olmoe-1b-7b", "paper")
    )
    assert olmoe == shape_of(CONFIGS["olmoe-1b-7b"])
    assert round(paper.active_parameters() / 1e9, 1) == 2.5
    assert round(paper.parameters() / 1e9) == 25


def test_the_config_that_transformers_saves_is_enough(tmp_path: Path) -> None:
    for name, config in CONFIGS.items():
        config.save_pretrained(tmp_path / name)
        saved = json.loads((tmp_path / name / "config.json").read_text())
        assert read_shape(saved, name) == shape_of(config)


def test_the_key_value_cache_of_a_token_is_a_key_and_a_value_of_every_layer() -> None:
    # OLMoE-1B-7B: 16 layers of 16 heads of width 128, and as many for the values; 2 bytes each.
    assert shape_of(CONFIGS["olmoe-1b-7b"]).kv_cache_bytes(2) == 2 * 16 * 16 * 128 * 2
    # Qwen3-MoE: 24 layers of 4 key-value heads of width 2048 / 32.
    assert shape_of(CONFIGS["qwen3-moe"]).kv_cache_bytes(2) == 2 * 24 * 4 * 64 * 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "expected a model_type out of llama, .*, got 'mamba'"),
        ({}, "got None"),
        ({"model_type": "llama"}, "expected a positive whole number as hidden_size, got None"),
        ({**SMALL, "model_type": "olmoe", "num_experts": 0}, "as num_experts, got 0"),
        ({**SMALL, "model_type": "llama", "vocab_size": "96"}, "as vocab_size, got '96'"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_shape(config, "config.json")
