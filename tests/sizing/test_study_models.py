"""Where the shapes of a study's models are read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bai_pipeline.errors import CheckpointError
from bai_pipeline.sizing.shape import shape_of_settings
from bai_pipeline.sizing.study_models import models_of
from bai_pipeline.study import Study, load_study

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
LLAMA = 2 * 50 * 8 + 4 * 64 + 3 * 8 * 16 + 3 * 8
"""Embedding and head, four projections, the MLP, three norms."""


def study(tmp_path: Path, text: str) -> Study:
    (tmp_path / "study.yaml").write_text(f"extends: micro\nname: test\n{text}")
    return load_study(tmp_path / "study.yaml", require_paths=False)


def checkpoint(path: Path, parameters: int | None = None, **changes: Any) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    if parameters is not None:
        save_file({"all": torch.zeros(parameters)}, path / "model.safetensors")
    return path


def test_what_is_trained_here_has_the_shape_of_the_model_section(tmp_path: Path) -> None:
    loaded = study(tmp_path, "")
    found = models_of(loaded, 40)
    shape = shape_of_settings(loaded.model, 40)
    assert found.models.actor == found.models.critic == found.models.reward == shape
    assert found.models.reward_dtype == "float32"
    assert found.sources["actor"] == "the study's model"
    assert found.notes == ()


def test_what_is_brought_has_the_shape_of_its_config(tmp_path: Path) -> None:
    checkpoint(tmp_path / "base", LLAMA)
    checkpoint(tmp_path / "reward", num_hidden_layers=3, dtype="bfloat16")
    text = "base: {path: base}\nreward: {kind: model, path: reward}\n"
    found = models_of(study(tmp_path, text), 40)
    assert found.models.actor.parameters() == LLAMA
    assert found.models.reward is not None
    assert (found.models.critic.layers, found.models.reward.layers) == (3, 3)
    assert found.models.reward_dtype == "bfloat16"
    assert found.sources["actor"] == str(tmp_path / "base" / "config.json")
    assert found.notes == ()


def test_weights_that_the_config_does_not_describe_are_noted(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", LLAMA + 8)
    found = models_of(study(tmp_path, "base: {path: base}\n"), 40)
    assert found.notes == (f"actor: {base} holds {LLAMA + 8:,} parameters, its config describes {LLAMA:,}",)


def test_a_checkpoint_that_is_not_there_is_stood_in_for(tmp_path: Path) -> None:
    found = models_of(study(tmp_path, "base: {path: base}\n"), 40)
    assert found.notes == (f"actor: no config.json in {tmp_path / 'base'}; the study's model stands in for it",)
    preset = models_of(load_study("paper", require_paths=False), 40)
    assert "actor: its path is to be given; the study's model stands in for it" in preset.notes


def test_a_critic_may_come_from_the_policy_or_from_elsewhere_and_a_verifier_has_no_model(tmp_path: Path) -> None:
    checkpoint(tmp_path / "critic", num_hidden_layers=5)
    verified = "reward: {kind: verifier}\n"
    policy = models_of(study(tmp_path, f"{verified}critic_init: policy\n"), 40).models
    assert (policy.reward, policy.critic) == (None, policy.actor)
    elsewhere = models_of(study(tmp_path, f"{verified}critic_init: {{path: critic}}\n"), 40).models
    assert elsewhere.critic.layers == 5


def test_a_config_of_an_unknown_model_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "base", model_type="mamba")
    with pytest.raises(CheckpointError, match=r"base/config\.json: expected a model_type out of"):
        models_of(study(tmp_path, "base: {path: base}\n"), 40)
