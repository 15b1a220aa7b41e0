"""Whether PPO fits on a GPU, and what is said to make it fit."""

from dataclasses import replace

import pytest

from bai_pipeline.sizing.fit import USABLE_SHARE, fit, offloading, remedies
from bai_pipeline.sizing.ppo_memory import Layout, Models, gpu_memory
from bai_pipeline.sizing.shape import OLMOE_VOCABULARY, shape_of_settings
from bai_pipeline.study import load_study

GIB = 2**30
PAPER = load_study("paper", require_paths=False)
SHAPE = shape_of_settings(PAPER.model, OLMOE_VOCABULARY)
MODELS = Models(SHAPE, SHAPE)
ON_64 = Layout(ranks=64, ranks_per_host=8, zero_stage=3, micro_batch_size=1, activation_checkpointing=True)


def test_the_cache_gets_what_the_phases_that_it_lives_through_leave() -> None:
    layout = replace(ON_64, tensor_parallel=8)
    found = fit(MODELS, PAPER.ppo, layout, 80 * GIB)
    without = gpu_memory(MODELS, PAPER.ppo, replace(layout, rollout_cache_bytes=0)).place(on_host=False).peak
    assert found.fits
    assert found.usable == int(80 * GIB * USABLE_SHARE)
    assert found.cache == found.usable - without
    # 28 layers, keys and values of width 2560, two bytes, 9216 tokens.
    assert found.responses_at_once == pytest.approx(found.cache / (2 * 28 * 2560 * 2 * 9216))


def test_a_cache_that_sleeps_gets_more() -> None:
    awake, asleep = (
        fit(MODELS, PAPER.ppo, replace(ON_64, tensor_parallel=8, rollouts_asleep=sleeps), 80 * GIB)
        for sleeps in (False, True)
    )
    assert asleep.cache > awake.cache
    assert asleep.peak <= asleep.usable


def test_the_cache_gets_no_more_than_all_responses_need() -> None:
    found = fit(MODELS, PAPER.ppo, ON_64, 10_000 * GIB)
    assert found.responses_at_once == pytest.approx(4096 / 64)


def test_a_cache_that_holds_no_response_does_not_fit() -> None:
    found = fit(MODELS, PAPER.ppo, replace(ON_64, tensor_parallel=8, rollout_cache_bytes=GIB), 80 * GIB)
    assert found.peak < found.usable
    assert not found.fits


def test_a_remedy_is_an_option_with_which_it_fits() -> None:
    assert not fit(MODELS, PAPER.ppo, ON_64, 80 * GIB).fits
    changes = {
        "--tensor-parallel 8": replace(ON_64, tensor_parallel=8),
        "--rollouts-asleep": replace(ON_64, rollouts_asleep=True),
        "--offload optimizer": replace(ON_64, deepspeed=offloading({}, "offload_optimizer")),
        "--frozen zero3": replace(ON_64, frozen="zero3"),
    }
    enough = [option for option, layout in changes.items() if fit(MODELS, PAPER.ppo, layout, 80 * GIB).fits]
    assert enough
    assert remedies(MODELS, PAPER.ppo, ON_64, 80 * GIB) == enough


def test_where_no_option_is_enough_all_are_tried_together_and_then_none_is_named() -> None:
    (together,) = remedies(MODELS, PAPER.ppo, replace(ON_64, zero_stage=1), 40 * GIB)
    assert "--zero-stage 3" in together
    assert "--offload optimizer" in together
    assert remedies(MODELS, PAPER.ppo, ON_64, 8 * GIB) == []


def test_offloading_leaves_the_rest_of_the_json_alone() -> None:
    config = {"zero_optimization": {"reduce_bucket_size": 1}, "wall_clock_breakdown": True}
    assert offloading(config, "offload_param") == {
        "zero_optimization": {"reduce_bucket_size": 1, "offload_param": {"device": "cpu"}},
        "wall_clock_breakdown": True,
    }
