"""Model states against DeepSpeed's own estimators and the ZeRO paper's figure."""

import pytest
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

from bai_pipeline.sizing.footprint import Item, Phase
from bai_pipeline.sizing.zero import Stage, Trained, Zero, training_buffers, training_states

PARAMETERS, LARGEST = 1_200_000_000, 100_000_000


def states(zero: Zero) -> list[Item]:
    return list(training_states(Trained.ACTOR, PARAMETERS, "bfloat16", zero))


def total(items: list[Item], *, on_host: bool) -> int:
    return sum(item.nbytes for item in items if item.on_host == on_host)


@pytest.mark.parametrize("ranks", [1, 8])
def test_stage_2_is_what_deepspeed_estimates(ranks: int) -> None:
    _, gpu = estimate_zero2_model_states_mem_needs(PARAMETERS, ranks, 1, cpu_offload=False)
    assert total(states(Zero(2, ranks)), on_host=False) == gpu


@pytest.mark.parametrize(("gpus", "nodes"), [(4, 1), (8, 1), (8, 8)])
def test_stage_3_is_what_deepspeed_estimates_and_the_parameters_that_it_leaves_out(gpus: int, nodes: int) -> None:
    _, gpu, gathered = estimate_zero3_model_states_mem_needs(
        PARAMETERS, LARGEST, gpus, nodes, cpu_offload=False, cpu_offload_params=False
    )
    ranks = gpus * nodes
    assert total(states(Zero(3, ranks)), on_host=False) == gpu - gathered + 2 * PARAMETERS / ranks


@pytest.mark.parametrize("ranks", [1, 4])
def test_an_offloaded_stage_2_is_what_deepspeed_estimates_and_the_parameters_on_their_way_back(ranks: int) -> None:
    # 16 bytes a parameter on the host, without the 1.5 that its users are advised to multiply by.
    cpu, gpu = estimate_zero2_model_states_mem_needs(PARAMETERS, ranks, 1, additional_buffer_factor=1)
    items = states(Zero(2, ranks, offload_optimizer=True))
    assert total(items, on_host=False) == gpu
    assert total(items, on_host=True) * ranks == cpu + 2 * PARAMETERS


@pytest.mark.parametrize(("gpus", "nodes"), [(8, 1), (8, 4)])
@pytest.mark.parametrize("parameters_too", [False, True])
def test_an_offloaded_stage_3_is_what_deepspeed_estimates_and_its_gradient_buffer(
    gpus: int, nodes: int, parameters_too: bool
) -> None:
    ranks = gpus * nodes
    cpu, gpu, gathered = estimate_zero3_model_states_mem_needs(
        PARAMETERS, LARGEST, gpus, nodes, cpu_offload_params=parameters_too, additional_buffer_factor=1
    )
    items = states(Zero(3, ranks, offload_optimizer=True, offload_parameters=parameters_too))
    assert total(items, on_host=False) == gpu - gathered
    assert total(items, on_host=True) * gpus == cpu + 2 * PARAMETERS / nodes


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_figures_of_the_zero_paper_are_met(stage: Stage, gigabytes: float) -> None:
    # Rajbhandari et al. 2020, figure 1: 7.5 B parameters on 64 GPUs; the float32 copy of the gradients is not in it.
    items = training_states(Trained.ACTOR, 7_500_000_000, "bfloat16", Zero(stage, 64))
    counted = sum(item.nbytes for item in items if "float32 gradients" not in item.name)
    assert counted / 1e9 == pytest.approx(gigabytes, abs=0.06)


def test_a_model_in_float32_has_a_master_copy_from_stage_1_on() -> None:
    names = {
        stage: {item.name: item.nbytes for item in training_states(Trained.CRITIC, 100, "float32", Zero(stage, 2))}
        for stage in (0, 1)
    }
    assert names[0]["critic: master weights"] == 0
    assert names[1]["critic: master weights"] == 4 * 50
    assert names[1]["critic: parameters"] == 4 * 100


def test_gradients_of_one_model_exist_while_it_is_updated() -> None:
    phases = {item.name: item.phases for item in states(Zero(1, 2))}
    assert phases["actor: gradients"] == {Phase.ACTOR_BACKWARD}
    assert phases["actor: float32 gradients"] == {Phase.ACTOR_STEP}
    assert Phase.CRITIC_STEP in phases["actor: Adam's moments"]


def test_a_deepspeed_json_says_what_is_offloaded_and_how_large_buffers_are() -> None:
    config = {
        "zero_optimization": {
            "offload_optimizer": {"device": "cpu"},
            "offload_param": {"device": "none"},
            "reduce_bucket_size": 2e7,
            "stage3_max_live_parameters": "auto",
        }
    }
    zero = Zero.of_config(config, stage=3, ranks=4)
    assert zero == Zero(3, 4, offload_optimizer=True, reduce_bucket_size=20_000_000)
    assert Zero.of_config({}, stage=1, ranks=1) == Zero(1, 1)


def test_the_defaults_are_deepspeeds() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    fields, zero = DeepSpeedZeroConfig.model_fields, Zero()
    assert zero.reduce_bucket_size == fields["reduce_bucket_size"].default
    assert zero.max_live_parameters == fields["max_live_parameters"].default
    assert zero.sub_group_size == fields["sub_group_size"].default


def test_a_bucket_larger_than_the_model_is_whole_on_a_gpu_and_as_far_as_it_is_used_on_a_cpu() -> None:
    found = {
        on_cpu: {
            item.name: item.nbytes
            for item in training_buffers(Trained.ACTOR, 1000, 10, "bfloat16", Zero(2, 1), on_cpu=on_cpu)
        }
        for on_cpu in (False, True)
    }
    assert found[False]["actor: reduction bucket"] == 2 * 500_000_000
    assert found[True]["actor: reduction bucket"] == 2 * 1000
