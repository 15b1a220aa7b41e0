"""The memory of PPO: sums by hand, the constants of the code that they speak of, and a real step in a process."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OlmoeConfig

from bai_pipeline.ppo import experience
from bai_pipeline.reward import scorers
from bai_pipeline.settings import ModelSettings, PpoSettings
from bai_pipeline.sizing.footprint import Dtype, Footprint, Item, Phase
from bai_pipeline.sizing.ppo_memory import (
    EXPERIENCE_BYTES,
    SCORED_AT_ONCE,
    Layout,
    Models,
    gpu_memory,
    kv_cache,
    process_memory,
)
from bai_pipeline.sizing.shape import read_shape
from bai_pipeline.study import load_study
from tests.sizing import ppo_step

SHAPE = read_shape(OlmoeConfig(intermediate_size=1024).to_dict(), "OLMoE-1B-7B")
MODELS = Models(SHAPE, SHAPE, SHAPE, "bfloat16")
SETTINGS = load_study("olmoe-1b-7b", require_paths=False).ppo
ON_8 = Layout(ranks=8, ranks_per_host=8, zero_stage=3, micro_batch_size=1, activation_checkpointing=True)


def bytes_of(footprint: Footprint) -> dict[str, dict[str, int]]:
    return dict(footprint.breakdown())


def with_settings(**changes: object) -> PpoSettings:
    return PpoSettings(**{**SETTINGS.model_dump(), **changes})


def test_a_footprint_is_the_largest_of_its_phases() -> None:
    backward, step = frozenset({Phase.ACTOR_BACKWARD}), frozenset({Phase.ACTOR_STEP})
    found = Footprint.of([Item("a", 5), Item("b", 3, backward), Item("c", 4, step), Item("c", 1, step), Item("d", 0)])
    assert (found.peak, found.peak_phase) == (10, Phase.ACTOR_STEP)
    assert found.at(Phase.ACTOR_BACKWARD) == 8
    assert found.at(Phase.LOAD) == 0
    assert bytes_of(found)["c"] == {"actor step": 5}


def test_a_gpu_holds_a_copy_for_rollouts_and_its_part_of_two_models() -> None:
    found = bytes_of(gpu_memory(MODELS, SETTINGS, ON_8).place(on_host=False))
    parameters = SHAPE.parameters()
    assert found["rollouts: weights"]["actor backward"] == 2 * parameters
    assert found["actor: parameters"]["sample"] == pytest.approx(2 * parameters / 8, abs=2)
    assert found["critic: Adam's moments"]["sample"] == pytest.approx(8 * SHAPE.parameters("score") / 8, abs=8)
    # 1024 responses and prompts of 4096 tokens, on every rank.
    assert found["rollout batch"]["actor step"] == 37 * 1024 * 4096


def test_logits_of_one_response_dominate_its_activations_once_those_are_checkpointed() -> None:
    found = bytes_of(gpu_memory(MODELS, SETTINGS, ON_8).place(on_host=False))
    assert found["logits"]["actor backward"] == 18 * 4096 * 50304
    assert found["activations"]["actor backward"] < found["logits"]["actor backward"] / 5


def test_without_checkpointing_all_layers_keep_their_activations() -> None:
    found = bytes_of(gpu_memory(MODELS, SETTINGS, replace(ON_8, activation_checkpointing=False)))
    # Of a token and a layer, H = Q = K = 2048, k = 8, F = 1024, e = 2: norms 4 H e + (4 + e) 2 H, attention 4 H e and
    # 4 bytes for each of 16 heads, experts k e (2 H + 4 F), router 4 E; then the last norm.
    layer = 2 * 8 * 2048 + 6 * 2 * 2048 + 2 * 4 * 2048 + 4 * 16 + 8 * 2 * 8192 + 4 * 64
    kept = 4096 * (16 * layer + 8 * 2048)
    assert found["activations"]["critic backward"] == pytest.approx(kept, rel=0.02)


def test_the_cache_of_all_responses_is_their_tokens_times_a_key_and_a_value_of_each_layer() -> None:
    assert kv_cache(MODELS, SETTINGS, ON_8) == 1024 // 8 * 4096 * 2 * 16 * 2048 * 2


def test_options_that_save_memory_do() -> None:
    def peak(layout: Layout, settings: PpoSettings = SETTINGS) -> int:
        return gpu_memory(MODELS, settings, layout).place(on_host=False).peak

    whole = peak(ON_8)
    assert peak(replace(ON_8, tensor_parallel=8)) < whole
    assert peak(replace(ON_8, rollouts_asleep=True)) < whole
    assert peak(replace(ON_8, deepspeed={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}})) < whole
    assert whole < peak(replace(ON_8, zero_stage=2)) < peak(replace(ON_8, zero_stage=1))
    assert whole < peak(replace(ON_8, micro_batch_size=4))
    assert whole < peak(replace(ON_8, reward_on_host=False))
    regularised = with_settings(kl_coef=0.03)
    assert whole < peak(replace(ON_8, frozen="zero3"), regularised) < peak(ON_8, regularised)


def test_what_is_offloaded_is_on_the_host() -> None:
    offload = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}
    found = bytes_of(gpu_memory(MODELS, SETTINGS, replace(ON_8, deepspeed=offload)).place(on_host=True))
    for name in ("parameters", "gradients", "master weights", "Adam's moments", "float32 gradients"):
        assert found[f"actor: {name}"]["sample"] > 0


def test_every_rank_has_the_models_whole_before_they_are_spread() -> None:
    host = gpu_memory(MODELS, SETTINGS, ON_8).place(on_host=True)
    wanted = 2 * (SHAPE.parameters() + 2 * SHAPE.parameters("score"))  # actor, critic, reward model
    assert host.at(Phase.LOAD) == wanted


def test_a_process_on_cpus_has_everything_in_one_memory() -> None:
    embedded = with_settings(rollout_engine="embedded")
    process = process_memory(MODELS, embedded, ON_8)
    assert process.place(on_host=False).items == ()
    assert process.at(Phase.SAMPLE) > gpu_memory(MODELS, embedded, ON_8).place(on_host=False).at(Phase.SAMPLE)


def test_the_constants_are_those_of_the_code() -> None:
    assert scorers.BATCH == SCORED_AT_ONCE
    batch = experience.build_experience([[1, 2]], [[3, 4, 5]], [[0.0] * 3], 0, torch.device("cpu"))
    # Entries that are not known yet share one tensor; later each has its own.
    entries = [value for name, value in vars(batch).items() if name not in ("tokens", "lengths")]
    assert batch.tokens.element_size() + sum(entry.element_size() for entry in entries) == pytest.approx(
        EXPERIENCE_BYTES, abs=8
    )


def peaks(root: Path, model: ModelSettings, ranks: int, precision: Dtype, parallelism: dict[str, Any]) -> list[int]:
    """Bytes of each rank's process that builds a model and takes a step with it."""
    given = json.dumps(
        {"root": str(root), "model": model.model_dump(), "precision": precision, "parallelism": parallelism}
    )
    subprocess.run([sys.executable, ppo_step.__file__, "build", given], check=True, timeout=280)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, ppo_step.__file__, "step", given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    found = []
    for process in processes:
        out, error = process.communicate(timeout=900)
        assert process.returncode == 0, error[-2000:]
        found.append(json.loads(out.splitlines()[-1]))
    assert all(reading["grad_norm_actor"] > 0 for reading in found)
    return [int(reading["peak"]) for reading in found]


def predicted_peak(root: Path, precision: Dtype, layout: Layout) -> int:
    """Bytes of a process, from the config.json of its model."""
    shape = read_shape(json.loads((root / "actor" / "config.json").read_text()), "the actor")
    settings = ppo_step.SETTINGS.model_copy(update={"precision": precision})
    return process_memory(Models(shape, shape), settings, layout).peak


def test_a_real_step_needs_the_predicted_memory(tmp_path: Path) -> None:
    """Everything that PPO does, in a process, with models of 27 M parameters in float32."""
    model = ModelSettings(
        num_hidden_layers=4,
        hidden_size=256,
        num_attention_heads=8,
        num_experts=16,
        num_experts_per_tok=2,
        intermediate_size=512,
        max_position_embeddings=64,
    )
    (measured,) = peaks(tmp_path, model, 1, "float32", {})
    assert predicted_peak(tmp_path, "float32", Layout()) == pytest.approx(measured, rel=0.15)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_step_of_a_model_of_300_million_parameters_on_two_ranks_with_offload(tmp_path: Path) -> None:
    """ZeRO 3 with the options of deploy/deepspeed/zero3-offload.json, in 24 GiB and what `bai plan` says, to 20%."""
    model = ModelSettings(
        num_hidden_layers=8,
        hidden_size=768,
        num_attention_heads=12,
        num_experts=32,
        num_experts_per_tok=4,
        intermediate_size=512,
        max_position_embeddings=64,
    )
    deepspeed = json.loads((Path(__file__).parents[2] / "deploy" / "deepspeed" / "zero3-offload.json").read_text())
    options = {"micro_batch_size": 1, "activation_checkpointing": True, "zero_stage": 3, "deepspeed": deepspeed}
    measured = peaks(tmp_path, model, 2, "bfloat16", options)
    layout = Layout(ranks=2, ranks_per_host=2, **options)
    predicted = predicted_peak(tmp_path, "bfloat16", layout)
    shape = read_shape(json.loads((tmp_path / "actor" / "config.json").read_text()), "the actor")
    print(f"{shape.parameters():,} parameters: predicted {predicted:,} bytes a rank, measured {measured}")
    assert shape.parameters() >= 300_000_000
    assert sum(measured) < 24 << 30
    for peak in measured:
        assert peak == pytest.approx(predicted, rel=0.2)
