"""The two DeepSpeed engines, and the models in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed.ops import __compatible_ops__
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.errors import CheckpointError, RewardError, TrainingError
from bai_pipeline.ppo.engines import (
    EXPERTS_IMPLEMENTATION,
    Parallelism,
    backward,
    build_engine,
    load_actor,
    load_critic,
    update,
    whole_weights,
)
from bai_pipeline.reward.scorers import RewardModelScorer
from bai_pipeline.settings import PpoSettings

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # DeepSpeed imports torch's inductor
    "ignore:`torch.distributed.*` is deprecated:FutureWarning",  # and calls its collectives by their old names
)

TOKENS = torch.tensor([[1, 5, 9, 10, 11, 2], [1, 6, 8, 12, 2, 0]])


def test_the_critic_starts_equal_to_the_reward_model(world: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    critic = load_critic(world / "reward", world / "actor", torch.float32)
    messages, response = [{"role": "user", "content": "sum a 4 b 7"}], "b 4 + 7 = 1 , ans 1"
    text = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": response}], tokenize=False)
    tokens = torch.tensor([tokenizer(str(text), add_special_tokens=False)["input_ids"]])
    scorer = RewardModelScorer.load(world / "reward")
    with torch.no_grad():
        values = critic(tokens)[0].tolist()
    for truncated, last in ((False, -1), (True, -2)):
        score = scorer([messages], [response], [None], [truncated])[0]
        assert values[last] == pytest.approx(score, abs=1e-6)


def test_values_do_not_depend_on_padding(world: Path) -> None:
    critic = load_critic(world / "reward", world / "actor", torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(critic(TOKENS)[1:, :5], critic(TOKENS[1:, :5]))


def test_a_critic_from_a_policy_has_its_body_and_a_head_of_zeros(world: Path) -> None:
    critic = load_critic(world / "actor", world / "actor", torch.float32)
    assert not critic(TOKENS).any()
    assert not any(module.training for module in critic.model.modules())
    body = AutoModelForCausalLM.from_pretrained(world / "actor").model.state_dict()
    for name, tensor in critic.model.base_model.state_dict().items():
        assert torch.equal(tensor, body[name]), name


@pytest.mark.parametrize("name", ["actor", "reward"])
def test_a_tensor_that_is_missing_is_named_and_never_random(world: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(world / name, tmp_path / name)
    weights = tmp_path / name / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.norm.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"in .*/{name}, got them without model\.norm\.weight$"):
        load_critic(tmp_path / name, world / "actor", torch.float32)
    if name == "actor":
        with pytest.raises(CheckpointError, match=r"without model\.norm\.weight"):
            load_actor(tmp_path / name, torch.float32)


def test_a_critic_with_a_foreign_tokenizer_is_refused(
    world: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    shutil.copytree(world / "reward", tmp_path / "reward")
    path = tmp_path / "reward" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zebra"] = len(tokenizer)
    path.write_text(json.dumps(content))
    with pytest.raises(RewardError, match=r"cannot start from .*reward: its tokenizer .* actor .*; set critic_init"):
        load_critic(tmp_path / "reward", world / "actor", torch.float32)


def test_all_experts_run_as_grouped_matrix_products(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    grouped = torch.nn.functional.grouped_mm

    def counted(*arguments: object, **options: object) -> torch.Tensor:
        calls.append(1)
        result: torch.Tensor = grouped(*arguments, **options)  # type: ignore[arg-type]
        return result

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", counted)
    for model in (
        load_actor(world / "actor", torch.float32),
        load_critic(world / "reward", world / "actor", torch.float32),
    ):
        calls.clear()
        model(TOKENS)
        assert len(calls) == 2 * 2  # up and down in each of 2 layers
    assert EXPERTS_IMPLEMENTATION == "grouped_mm"


def test_the_learning_rate_warms_up_over_updates_and_stays(with_settings: Callable[..., PpoSettings]) -> None:
    module = nn.Linear(2, 1)
    engine = build_engine(module, with_settings(warmup_updates=4), learning_rate=0.01, parallelism=Parallelism())
    rates = []
    for _ in range(6):
        rates.append(engine.get_lr()[0])
        engine.backward(engine(torch.ones(1, 2)).sum())
        engine.step()
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_the_gradient_norm_is_reported_before_clipping_and_the_update_is_torch_adamw_s(
    with_settings: Callable[..., PpoSettings],
) -> None:
    settings = with_settings(max_grad_norm=0.5, weight_decay=0.1, warmup_updates=0)
    module, twin = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    twin.load_state_dict(module.state_dict())
    engine = build_engine(module, settings, learning_rate=0.01, parallelism=Parallelism())
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    for scale in (3.0, 0.01, -7.0):
        x = scale * torch.tensor([[3.0, 4.0]])
        engine.backward(engine(x).sum())
        engine.step()
        assert float(engine.get_global_grad_norm()) == pytest.approx(abs(scale) * 5)
        twin(x).sum().backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(module.weight, twin.weight)


def test_no_extension_is_compiled_on_a_cpu(settings: PpoSettings) -> None:
    """The name is undocumented: DeepSpeed is pinned to the version in which it works."""
    assert deepspeed.__version__.startswith("0.19.8")
    assert "deepspeed_shm_comm" in __compatible_ops__
    build_engine(nn.Linear(2, 1), settings, learning_rate=0.01, parallelism=Parallelism())
    assert __compatible_ops__["deepspeed_shm_comm"] is False


@pytest.mark.parametrize("key", ["gradient_clipping", "optimizer", "bf16"])
def test_a_deepspeed_config_cannot_override_the_study(settings: PpoSettings, key: str) -> None:
    parallelism = Parallelism(deepspeed={key: {}, "zero_optimization": {"stage": 2}})
    message = rf"sets {key}, zero_optimization\.stage, which the study's ppo settings and the compute file's zero_stage"
    with pytest.raises(TrainingError, match=message):
        build_engine(nn.Linear(2, 1), settings, learning_rate=0.01, parallelism=parallelism)


def test_activation_checkpointing_runs_each_layer_twice_and_changes_no_gradient(
    world: Path, settings: PpoSettings
) -> None:
    norms, calls = [], []
    for on in (False, True):
        model = load_actor(world / "actor", torch.float32)
        parallelism = Parallelism(activation_checkpointing=on)
        engine = build_engine(model, settings, learning_rate=0.0, parallelism=parallelism)
        count: list[int] = []
        model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        backward(engine, engine(input_ids=TOKENS, use_cache=False).logits.square().mean(), last=True)
        norms.append(update(engine))
        calls.append(len(count))
        assert not any(module.training for module in model.modules() if "Dropout" in type(module).__name__)
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert calls == [1, 2]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_accumulated_micro_batches_are_one_update(with_settings: Callable[..., PpoSettings], stage: Any) -> None:
    """Of two, and of three: the number is not told to DeepSpeed beforehand."""
    settings = with_settings(warmup_updates=0, max_grad_norm=0.5)
    inputs = [torch.tensor([[3.0, 4.0]]), torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.5, 5.0]])]
    module, twin = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    twin.load_state_dict(module.state_dict())
    engine = build_engine(module, settings, learning_rate=0.01, parallelism=Parallelism(zero_stage=stage))
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for count in (2, 3, 1):
        for number, x in enumerate(inputs[:count]):
            backward(engine, engine(x).square().sum(), last=number + 1 == count)
        norm = update(engine)
        sum(twin(x).square().sum() for x in inputs[:count]).backward()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(twin.parameters(), 0.5)), rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()
        ((_, weight),) = whole_weights(module)
        torch.testing.assert_close(weight, twin.weight.detach())
