"""The memory of PPO: sums by hand, the constants of the code that they speak of, and a real step in a process."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import OlmoeConfig

from bai_pipeline.ppo import experience
from bai_pipeline.reward import scorers
from bai_pipeline.settings import PpoSettings
from bai_pipeline.sizing.footprint import Footprint, Item, Phase
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


def test_a_real_step_needs_the_predicted_memory(tmp_path: Path) -> None:
    """Everything that PPO does, in a process, with models of 27 M parameters in float32."""
    done = subprocess.run(
        [sys.executable, ppo_step.__file__, str(tmp_path)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])["peak"]
    shape = read_shape(json.loads((tmp_path / "actor" / "config.json").read_text()), "the actor")
    predicted = process_memory(Models(shape, shape), ppo_step.SETTINGS, Layout()).peak
    assert predicted == pytest.approx(measured, rel=0.15)
