"""Policies as Hugging Face directories."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeForCausalLM

from bai_pipeline.ppo.policies import KeptPolicies, save_policy


def test_a_saved_policy_loads_with_every_tensor_and_the_actor_s_tokenizer(
    world: Path, policy: OlmoeForCausalLM, tmp_path: Path
) -> None:
    save_policy(policy, world / "actor", tmp_path / "policy")
    result: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", output_loading_info=True)
    loaded, info = result
    assert not any(info.values())
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.generation_config.eos_token_id == policy.generation_config.eos_token_id
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "policy" / name).read_bytes() == (world / "actor" / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token == "<eos>"


def test_policies_from_after_the_checkpoint_are_dropped_on_resuming(
    world: Path, policy: OlmoeForCausalLM, tmp_path: Path
) -> None:
    kept = KeptPolicies(tmp_path)
    for step in (2, 4):
        kept.save(step, policy, world / "actor")
    kept.resume(3)
    assert kept.path(2).is_dir()
    assert not kept.path(4).exists()
    assert kept.steps() == [2]


def test_a_policy_that_is_kept_is_not_written_again(world: Path, policy: OlmoeForCausalLM, tmp_path: Path) -> None:
    kept = KeptPolicies(tmp_path)
    kept.save(2, policy, world / "actor")
    written = (tmp_path / "step-000002" / "model.safetensors").stat()
    kept.save(2, policy, world / "actor")
    assert (tmp_path / "step-000002" / "model.safetensors").stat() == written


def test_a_half_written_policy_is_never_seen(
    world: Path, policy: OlmoeForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptPolicies(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("bai_pipeline.ppo.policies.fsync_tree", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            kept.save(2, policy, world / "actor")
    assert not kept.path(2).exists()
    KeptPolicies(tmp_path).save(2, policy, world / "actor")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
