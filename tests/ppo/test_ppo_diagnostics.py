"""What a PPO step reports about itself, against definitions, identities and arithmetic by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bai_pipeline.ppo.diagnostics import (
    clipped,
    expert_load,
    explained_variance,
    k3_kl_sample_train,
    kl_train_sample,
    kl_train_sample_terms,
    stop_gap,
    value_error_by_prefix,
)
from tests.ppo.episodes import MiniBatch, everywhere, mini_batches, response_mask, row, splits


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_both_kl_estimates_have_the_kl_as_their_expectation_and_no_negative_term(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    train, sampled = torch.randn(2, 6, dtype=torch.float64, generator=rng).log_softmax(-1)
    one = torch.tensor([[True]])
    forward = [float(kl_train_sample(train[a].view(1, 1), sampled[a].view(1, 1), one)) for a in range(6)]
    backward = [float(k3_kl_sample_train(train[a].view(1, 1), sampled[a].view(1, 1), one)) for a in range(6)]
    p, q = train.exp().numpy(), sampled.exp().numpy()
    assert q @ forward == pytest.approx(p @ np.log(p / q), abs=1e-12)
    assert q @ backward == pytest.approx(q @ np.log(q / p), abs=1e-12)
    assert min(forward + backward) >= -1e-15


def test_the_two_directions_of_the_kl_differ() -> None:
    ratio = row(2.0)
    arguments = ratio.log(), torch.zeros_like(ratio), everywhere(ratio)
    assert float(kl_train_sample(*arguments)) == pytest.approx(2 * math.log(2) - 1)
    assert float(k3_kl_sample_train(*arguments)) == pytest.approx(1 - math.log(2))


@given(st.data())
def test_kl_terms_of_parts_add_up_to_the_mean_over_the_whole(data: st.DataObject) -> None:
    whole = data.draw(mini_batches().filter(lambda batch: bool(batch.mask.any())))
    parts = [whole.rows(chosen) for chosen in data.draw(splits(len(whole.mask)))]
    total = sum(float(kl_train_sample_terms(part.logprobs, part.old_logprobs, part.mask).sum()) for part in parts)
    expected = float(kl_train_sample(whole.logprobs, whole.old_logprobs, whole.mask))
    assert total / int(whole.mask.sum()) == pytest.approx(expected, abs=1e-12)


@given(mini_batches().filter(lambda batch: bool(batch.mask.any())))
def test_what_stands_outside_the_responses_has_no_influence(batch: MiniBatch) -> None:
    def readings(of: MiniBatch) -> list[torch.Tensor]:
        return [
            kl_train_sample_terms(of.logprobs, of.old_logprobs, of.mask),
            k3_kl_sample_train(of.logprobs, of.old_logprobs, of.mask),
            clipped(of.logprobs, of.old_logprobs, of.mask, clip_range=0.2),
            *value_error_by_prefix(of.values, of.returns, of.mask, width=2),
            *stop_gap(of.advantages, batch.rewards > 0, of.mask),
        ]

    for one, two in zip(readings(batch), readings(batch.outside(math.nan)), strict=True):
        assert torch.equal(one, two)


def test_clipped_marks_the_response_tokens_with_ratios_outside_the_range() -> None:
    ratios = row(0.7, 0.9, 1.0, 1.1, 1.25, 1.4, 9.0)
    mask = torch.tensor([[True] * 6 + [False]])
    old = torch.zeros_like(ratios)
    outside = clipped(ratios.log(), old, mask, clip_range=0.2)
    assert outside.tolist() == [[True, False, False, False, True, True, False]]
    outside = clipped(ratios.log(), old, mask, clip_range=0.2, clip_range_high=0.3)
    assert outside.tolist() == [[True, False, False, False, False, True, False]]


def test_explained_variance_of_a_perfect_and_of_a_constant_critic() -> None:
    returns = row(1.0, 2.0, 6.0)
    mask = everywhere(returns)
    assert float(explained_variance(returns, returns, mask)) == 1
    assert float(explained_variance(torch.zeros_like(returns), returns, mask)) == 0
    assert float(explained_variance(-returns, returns, mask)) == pytest.approx(1 - 4)
    assert math.isnan(float(explained_variance(returns, torch.ones_like(returns), mask)))


def test_value_errors_are_gathered_by_position_in_the_response() -> None:
    mask = response_mask([2, 0], [3, 5], 5)
    values = torch.tensor([[9.0, 9.0, 1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 40.0, 50.0]])
    sums, counts = value_error_by_prefix(values, torch.ones(2, 5), mask, width=2)
    # V - R: 0 1 | 2 at positions 0 1 | 2, and 9 19 | 29 39 | 49
    assert sums.tolist() == [0 + 1 + 9 + 19, 2 + 29 + 39, 49]
    assert counts.tolist() == [4, 3, 1]


@given(st.data(), st.integers(1, 10))
def test_value_errors_of_parts_add_up_to_those_of_the_whole(data: st.DataObject, width: int) -> None:
    whole = data.draw(mini_batches())
    sums, counts = value_error_by_prefix(whole.values, whole.returns, whole.mask, width=width)
    for chosen in data.draw(splits(len(whole.mask))):
        part = whole.rows(chosen)
        part_sums, part_counts = value_error_by_prefix(part.values, part.returns, part.mask, width=width)
        sums[: len(part_sums)] -= part_sums
        counts[: len(part_counts)] -= part_counts
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-12)
    assert not counts.any()


def test_the_stop_gap_is_the_mean_advantage_of_stop_tokens_over_that_of_the_others() -> None:
    advantages = torch.tensor([[1.0, 2.0, 5.0, 99.0], [-3.0, 4.0, 0.0, 3.0]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    ended = torch.tensor([[False, False, True, True], [False, False, False, True]])
    sums, counts = stop_gap(advantages, ended, mask)
    assert sums.tolist() == [5 + 3, 1 + 2 - 3 + 4 + 0]
    assert counts.tolist() == [2, 5]


def test_without_a_stop_token_the_stop_gap_counts_none() -> None:
    advantages = row(1.0, 2.0)
    sums, counts = stop_gap(advantages, torch.zeros(1, 2, dtype=torch.bool), everywhere(advantages))
    assert sums.tolist() == [0, 3]
    assert counts.tolist() == [0, 2]


def test_a_balanced_router_has_an_expert_load_of_1() -> None:
    load = expert_load(torch.full((2, 8), 5))
    assert load == pytest.approx({"expert_load_max": 1, "expert_load_entropy": 1})


def test_a_collapsed_router_loads_top_k_experts() -> None:
    one_of_8 = expert_load(torch.tensor([[40, 0, 0, 0, 0, 0, 0, 0]]))
    assert one_of_8 == pytest.approx({"expert_load_max": 8, "expert_load_entropy": 0})
    two_of_8 = expert_load(torch.tensor([[0, 20, 0, 0, 20, 0, 0, 0]]))
    assert two_of_8 == pytest.approx({"expert_load_max": 4, "expert_load_entropy": math.log(2) / math.log(8)})


def test_expert_load_is_the_worst_layers_maximum_and_the_mean_entropy() -> None:
    load = expert_load(torch.tensor([[4, 4], [12, 4]]))
    entropy = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)) / math.log(2)
    assert load == pytest.approx({"expert_load_max": 3 / 4 * 2, "expert_load_entropy": (1 + entropy) / 2})
