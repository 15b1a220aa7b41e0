"""Policies as Hugging Face directories."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, OlmoeForCausalLM

from bai_pipeline.ppo.engines import load_actor, load_critic
from bai_pipeline.ppo.policies import KeptModels, TrainedModels, save_model
from bai_pipeline.ppo.ranks import Ranks


def test_a_saved_policy_loads_with_every_tensor_and_the_actor_s_tokenizer(
    world: Path, policy: OlmoeForCausalLM, tmp_path: Path
) -> None:
    save_model(policy, world / "actor", tmp_path / "policy")
    result: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", output_loading_info=True)
    loaded, info = result
    assert not any(info.values())
    for name, tensor in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.generation_config.eos_token_id == policy.generation_config.eos_token_id
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "policy" / name).read_bytes() == (world / "actor" / name).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token == "<eos>"


@pytest.fixture
def models(world: Path) -> TrainedModels:
    actor = load_actor(world / "actor", torch.float32)
    return TrainedModels(actor, load_critic(world / "reward", world / "actor", torch.float32), world / "actor")


def test_models_from_after_the_checkpoint_are_dropped_on_resuming(models: TrainedModels, tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, Ranks())
    kept.save(2, "end", models)
    kept.save(4, "best", models)
    kept.resume(3)
    assert kept.policy(2).is_dir()
    assert kept.critic(2).is_dir()
    assert not kept.policy(4).exists()
    assert not kept.critic(4).exists()
    assert (kept.steps(), kept.best()) == ([2], None)


def test_models_that_are_kept_are_not_written_again(models: TrainedModels, tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, Ranks())
    kept.save(2, "end", models)
    written = (kept.policy(2) / "model.safetensors").stat()
    kept.save(2, "evaluated", models)
    assert (kept.policy(2) / "model.safetensors").stat() == written


def test_models_stay_as_long_as_there_is_a_reason(models: TrainedModels, tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, Ranks())
    kept.save(2, "best", models)
    kept.save(2, "evaluated", models)
    kept.release(2, "best")
    assert kept.steps() == [2]
    kept.release(2, "evaluated")
    assert kept.steps() == []
    assert not kept.policy(2).exists()


def test_half_written_models_are_never_seen(
    models: TrainedModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptModels(tmp_path, Ranks())
    with monkeypatch.context() as patch:
        patch.setattr("bai_pipeline.ppo.policies.fsync_tree", lambda _: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            kept.save(2, "end", models)
    assert kept.steps() == []
    again = KeptModels(tmp_path, Ranks())
    again.save(2, "end", models)
    assert again.steps() == [2]
    assert [path.name for kind in ("policies", "critics") for path in (tmp_path / kind).iterdir()] == [
        "step-000002"
    ] * 2


def test_a_critic_is_kept_as_a_reward_model_of_its_values(models: TrainedModels, tmp_path: Path) -> None:
    models.critic.offset = 0.75
    kept = KeptModels(tmp_path, Ranks())
    kept.save(2, "end", models)
    assert models.critic.model.config.score_shift == 0.5  # what is in memory stays as it was
    again = load_critic(kept.critic(2), kept.policy(2), torch.float32)
    tokens = torch.tensor([[1, 5, 9, 10, 11, 2]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), models.critic(tokens))
