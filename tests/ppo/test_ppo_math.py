"""PPO's mathematics against definitions, identities and arithmetic by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from bai_pipeline.ppo.math import (
    clip_fraction,
    entropy,
    explained_variance,
    gae,
    k3_kl_sample_train,
    kl_train_sample,
    load_balancing_loss,
    policy_loss,
    token_logprobs,
    token_rewards,
    value_loss,
    whiten,
)


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def response_mask(starts: list[int], lengths: list[int], width: int) -> Tensor:
    positions = torch.arange(width)
    ends = torch.tensor(starts) + torch.tensor(lengths)
    return (positions >= torch.tensor(starts)[:, None]) & (positions < ends[:, None])


@st.composite
def episodes(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float, float]:
    """Rewards, values and the mask of a few responses (also of length 0) within a wider tensor; gamma and lambda."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    starts = [draw(st.integers(0, width - 1)) for _ in range(rows)]
    lengths = [draw(st.integers(0, width - start)) for start in starts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rewards, values = (torch.from_numpy(rng.normal(size=(rows, width))) for _ in range(2))
    return rewards, values, response_mask(starts, lengths, width), draw(st.floats(0, 1)), draw(st.floats(0, 1))


def test_token_logprobs_are_those_of_the_softmax() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, math.log(3.0)]]])
    logprobs = token_logprobs(logits, torch.tensor([[0, 1]]))
    torch.testing.assert_close(logprobs, torch.tensor([[math.log(1 / 4), math.log(3 / 4)]]))


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[[0.0, 2 * math.log(3.0)]]])
    torch.testing.assert_close(
        token_logprobs(logits, torch.tensor([[1]]), temperature=2.0), torch.tensor([[math.log(3 / 4)]])
    )


def test_entropy_of_a_uniform_distribution_is_the_logarithm_of_its_size() -> None:
    torch.testing.assert_close(entropy(torch.full((1, 2, 7), 3.0)), torch.full((1, 2), math.log(7)))


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    expected = -(1 / 4 * math.log(1 / 4) + 3 / 4 * math.log(3 / 4))
    torch.testing.assert_close(entropy(logits), torch.tensor([[expected]]))


def test_the_score_is_the_reward_of_the_last_response_token() -> None:
    mask = torch.tensor([[False, True, True, False], [False, True, True, True]])
    rewards = token_rewards(torch.tensor([5.0, -2.0]), mask, sample_logprobs=torch.zeros(2, 4))
    assert rewards.tolist() == [[0, 0, 5, 0], [0, 0, 0, -2]]


def test_the_kl_penalty_is_on_every_response_token() -> None:
    mask = torch.tensor([[False, True, True, False]])
    rewards = token_rewards(
        torch.tensor([5.0]),
        mask,
        sample_logprobs=torch.tensor([[-9.0, -1.0, -2.0, -9.0]]),
        ref_logprobs=torch.tensor([[-1.0, -3.0, -1.0, -1.0]]),
        kl_coef=0.1,
    )
    torch.testing.assert_close(rewards, torch.tensor([[0.0, -0.1 * 2, 0.1 * 1 + 5, 0.0]]))


def test_gae_by_hand() -> None:
    rewards, values = row(0.0, 1.0, 4.0), row(1.0, 2.0, 3.0)
    advantages, returns = gae(rewards, values, everywhere(rewards), gamma=0.5, lam=0.5)
    # deltas: 0 + .5*2 - 1 = 0;  1 + .5*3 - 2 = .5;  4 - 3 = 1.  A_2 = 1, A_1 = .5 + .25*1, A_0 = 0 + .25*.75
    torch.testing.assert_close(advantages, row(0.1875, 0.75, 1.0))
    torch.testing.assert_close(returns, row(1.1875, 2.75, 4.0))


@given(episodes())
def test_gae_is_the_discounted_sum_of_td_errors(episode: tuple[Tensor, Tensor, Tensor, float, float]) -> None:
    rewards, values, mask, gamma, lam = episode
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for i in range(len(rewards)):
        inside = [t for t in range(rewards.shape[1]) if mask[i, t]]
        deltas = {}
        for t in inside:
            following = float(values[i, t + 1]) if t + 1 in inside else 0.0
            deltas[t] = float(rewards[i, t]) + gamma * following - float(values[i, t])
        for t in range(rewards.shape[1]):
            expected = sum((gamma * lam) ** (u - t) * deltas[u] for u in inside if u >= t) if t in inside else 0.0
            assert float(advantages[i, t]) == pytest.approx(expected, abs=1e-12)
            assert float(returns[i, t]) == pytest.approx(
                expected + float(values[i, t]) if t in inside else 0, abs=1e-12
            )


@given(episodes())
def test_gae_with_lambda_1_is_the_return_minus_the_value(episode: tuple[Tensor, Tensor, Tensor, float, float]) -> None:
    rewards, values, mask, gamma, _ = episode
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=1.0)
    discounted = torch.zeros_like(rewards)
    for t in range(rewards.shape[1]):
        for u in range(t, rewards.shape[1]):
            discounted[:, t] += gamma ** (u - t) * rewards[:, u] * mask[:, u] * mask[:, t]
    torch.testing.assert_close(advantages, (discounted - values) * mask)
    torch.testing.assert_close(returns, discounted)


@given(episodes())
def test_gae_with_lambda_0_is_the_td_error(episode: tuple[Tensor, Tensor, Tensor, float, float]) -> None:
    rewards, values, mask, gamma, _ = episode
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=0.0)
    following = torch.nn.functional.pad((values * mask)[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, (rewards + gamma * following - values) * mask)


@given(episodes())
def test_what_stands_outside_the_response_has_no_influence(
    episode: tuple[Tensor, Tensor, Tensor, float, float],
) -> None:
    rewards, values, mask, gamma, lam = episode
    other = torch.full_like(rewards, torch.nan)
    changed = gae(torch.where(mask, rewards, other), torch.where(mask, values, other), mask, gamma=gamma, lam=lam)
    for one, two in zip(gae(rewards, values, mask, gamma=gamma, lam=lam), changed, strict=True):
        assert torch.equal(one, two)


def test_whitened_entries_have_mean_0_and_standard_deviation_1() -> None:
    x = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7 + 100
    mask = response_mask([0, 3, 2, 8, 0], [9, 4, 5, 1, 0], 9)
    whitened = whiten(x, mask)
    assert float(whitened[mask].mean()) == pytest.approx(0, abs=1e-12)
    assert float((whitened[mask] ** 2).mean()) == pytest.approx(1, abs=1e-6)
    assert not whitened[~mask].any()


def test_equal_entries_are_whitened_to_0() -> None:
    assert whiten(row(3.0, 3.0), everywhere(row(3.0, 3.0))).tolist() == [[0.0, 0.0]]


def test_policy_loss_by_hand() -> None:
    ratios, advantages = row(1.0, 1.5, 1.5, 0.5, 0.5), row(2.0, 1.0, -1.0, 1.0, -1.0)
    loss = policy_loss(ratios.log(), torch.zeros_like(ratios), advantages, everywhere(ratios), clip_range=0.2)
    # min(r A, clip(r) A): 2, min(1.5, 1.2), min(-1.5, -1.2), min(.5, .8), min(-.5, -.8)
    assert float(loss) == pytest.approx(-(2 + 1.2 - 1.5 + 0.5 - 0.8) / 5)


def test_the_gradient_of_the_policy_loss_vanishes_only_where_clipping_binds() -> None:
    ratios, advantages = row(1.5, 1.5, 0.5, 0.5, 1.1), row(1.0, -1.0, 1.0, -1.0, 1.0)
    logprobs = ratios.log().requires_grad_()
    policy_loss(logprobs, torch.zeros_like(ratios), advantages, everywhere(ratios), clip_range=0.2).backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    # d(-r A / n)/d(log r) = -r A / n where not clipped
    torch.testing.assert_close(logprobs.grad, row(0.0, 1.5, -0.5, 0.0, -1.1) / 5)


def test_at_ratio_1_the_gradient_is_the_policy_gradient() -> None:
    logprobs = row(-1.0, -2.0).requires_grad_()
    mask = everywhere(logprobs)
    policy_loss(logprobs, logprobs.detach(), row(3.0, -4.0), mask, clip_range=0.2).backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, row(-1.5, 2.0))


def test_losses_are_means_over_response_tokens_of_the_whole_mini_batch() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    x = torch.tensor([[1.0, 99.0, 99.0], [2.0, 3.0, 4.0]])
    zeros = torch.zeros_like(x)
    assert float(policy_loss(zeros, zeros, x, mask, clip_range=0.2)) == pytest.approx(-(1 + 2 + 3 + 4) / 4)
    assert float(value_loss(x, zeros, zeros, mask, value_clip=None)) == pytest.approx((1 + 4 + 9 + 16) / 4 / 2)


def test_value_loss_by_hand() -> None:
    values, old, returns = row(1.0, 1.0, 0.1), row(0.0, 0.0, 0.0), row(2.0, 0.5, 1.0)
    loss = value_loss(values, old, returns, everywhere(values), value_clip=0.2)
    # clipped values .2, .2, .1: max((1-2)^2, (.2-2)^2), max(.5^2, .3^2), .9^2
    assert float(loss) == pytest.approx((1.8**2 + 0.5**2 + 0.9**2) / 3 / 2)


def test_value_loss_pushes_no_further_where_clipping_binds() -> None:
    values = row(1.0, 1.0).requires_grad_()
    value_loss(values, row(0.0, 0.0), row(2.0, 0.5), everywhere(values), value_clip=0.2).backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    torch.testing.assert_close(values.grad, row(0.0, 0.5 / 2))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_both_kl_estimates_have_the_kl_as_their_expectation_and_no_negative_term(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    train, sampled = torch.randn(2, 6, dtype=torch.float64, generator=rng).log_softmax(-1)
    forward = sum(
        float(sampled[a].exp())
        * float(kl_train_sample(train[a].view(1, 1), sampled[a].view(1, 1), torch.tensor([[True]])))
        for a in range(6)
    )
    assert forward == pytest.approx(float((train.exp() * (train - sampled)).sum()), abs=1e-12)
    backward = sum(
        float(sampled[a].exp())
        * float(k3_kl_sample_train(train[a].view(1, 1), sampled[a].view(1, 1), torch.tensor([[True]])))
        for a in range(6)
    )
    assert backward == pytest.approx(float((sampled.exp() * (sampled - train)).sum()), abs=1e-12)
    for a in range(6):
        one = train[a].view(1, 1), sampled[a].view(1, 1), torch.tensor([[True]])
        assert float(kl_train_sample(*one)) >= -1e-15
        assert float(k3_kl_sample_train(*one)) >= -1e-15


def test_the_two_directions_of_the_kl_differ() -> None:
    ratio = row(2.0)
    arguments = ratio.log(), torch.zeros_like(ratio), everywhere(ratio)
    assert float(kl_train_sample(*arguments)) == pytest.approx(2 * math.log(2) - 1)
    assert float(k3_kl_sample_train(*arguments)) == pytest.approx(1 - math.log(2))


def test_clip_fraction_counts_ratios_outside_the_range() -> None:
    ratios = row(0.7, 0.9, 1.0, 1.1, 1.3)
    fraction = clip_fraction(ratios.log(), torch.zeros_like(ratios), everywhere(ratios), clip_range=0.2)
    assert float(fraction) == pytest.approx(2 / 5)


def test_explained_variance_of_a_perfect_and_of_a_constant_critic() -> None:
    returns = row(1.0, 2.0, 6.0)
    mask = everywhere(returns)
    assert float(explained_variance(returns, returns, mask)) == 1
    assert float(explained_variance(torch.zeros_like(returns), returns, mask)) == 0
    assert float(explained_variance(-returns, returns, mask)) == pytest.approx(1 - 4)
    assert math.isnan(float(explained_variance(returns, torch.ones_like(returns), mask)))


def test_a_balanced_router_has_the_smallest_load_balancing_loss() -> None:
    logits = torch.eye(4).repeat(2, 1)[None, None] * 9  # 8 tokens, each expert is first twice
    assert float(load_balancing_loss(logits, torch.ones(1, 8, dtype=torch.bool), top_k=1)) == pytest.approx(1)
    collapsed = torch.zeros(1, 1, 8, 4).index_fill(-1, torch.tensor([2]), 99.0)
    assert float(load_balancing_loss(collapsed, torch.ones(1, 8, dtype=torch.bool), top_k=1)) == pytest.approx(4)


def test_load_balancing_loss_is_that_of_transformers() -> None:
    logits = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    theirs = load_balancing_loss_func(tuple(logits.flatten(1, 2)), 4, 2, mask.long())
    torch.testing.assert_close(load_balancing_loss(logits, mask, top_k=2), theirs)
