"""PPO's mathematics against definitions, identities, arithmetic by hand and float64 numpy written another way."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from bai_pipeline.ppo.math import (
    adapt_kl_coef,
    calibration_shift,
    entropy,
    gae,
    importance_weights,
    kl_loss_terms,
    load_balancing_loss,
    logprobs_and_entropy,
    loss_weights,
    masked_mean,
    policy_terms,
    router_statistics,
    token_logprobs,
    token_rewards,
    value_terms,
    whiten,
)
from tests.ppo.episodes import (
    MiniBatch,
    everywhere,
    mini_batches,
    random_mini_batch,
    response_mask,
    row,
    splits,
)

shares = st.floats(0, 1)


def policy_of(batch: MiniBatch) -> Tensor:
    return policy_terms(
        batch.logprobs,
        batch.old_logprobs,
        batch.advantages,
        batch.mask,
        clip_range=0.2,
        clip_range_high=0.3,
        dual_clip=1.5,
        weights=batch.weights,
    )


def value_of(batch: MiniBatch) -> Tensor:
    return value_terms(batch.values, batch.old_values, batch.returns, batch.mask, value_clip=0.2)


def kl_of(batch: MiniBatch) -> Tensor:
    return kl_loss_terms(batch.logprobs, batch.ref_logprobs, batch.mask)


losses = pytest.mark.parametrize("terms_of", [policy_of, value_of, kl_of])
Terms = Callable[[MiniBatch], Tensor]


def trained(batch: MiniBatch) -> tuple[Tensor, Tensor]:
    """What the losses are differentiated by."""
    return batch.logprobs.requires_grad_(), batch.values.requires_grad_()


def gradients(loss: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Of `loss` by each of `inputs`; the graph stays for another loss."""
    return list(torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True))


# Log-probabilities and entropy


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


def test_the_gradient_of_the_entropy_is_right() -> None:
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: entropy(x, temperature=0.7), [logits])


def test_logprobs_and_entropy_together_are_what_they_are_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=rng).requires_grad_()
    tokens = torch.randint(5, (2, 3), generator=rng)
    together = logprobs_and_entropy(logits, tokens, temperature=0.7)
    apart = token_logprobs(logits, tokens, temperature=0.7), entropy(logits, temperature=0.7)
    for one, two in zip(together, apart, strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(gradients(one.sum(), (logits,)), gradients(two.sum(), (logits,)))


# Weights of a mini-batch


def test_token_aggregation_is_the_mean_over_tokens_and_sequence_aggregation_that_over_sequence_means() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    x = torch.tensor([[1.0, 99.0, 99.0], [2.0, 3.0, 7.0]])
    by_token = loss_weights(mask, aggregation="token", tokens=4, sequences=2)
    by_sequence = loss_weights(mask, aggregation="sequence", tokens=4, sequences=2)
    assert float((by_token * x).sum()) == pytest.approx((1 + 2 + 3 + 7) / 4)
    assert float((by_sequence * x).sum()) == pytest.approx((1 + (2 + 3 + 7) / 3) / 2)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_rows_and_mini_batches_without_a_response_weigh_nothing(aggregation: str) -> None:
    mask = response_mask([1, 0], [0, 2], 3)
    weights = loss_weights(mask, aggregation=aggregation, tokens=2, sequences=1)  # type: ignore[arg-type]
    assert weights.tolist() == [[0, 0, 0], [0.5, 0.5, 0]]
    nothing = loss_weights(mask[:1], aggregation=aggregation, tokens=0, sequences=0)  # type: ignore[arg-type]
    assert nothing.tolist() == [[0, 0, 0]]


@losses
@pytest.mark.parametrize("aggregation", ["token", "sequence"])
@given(data=st.data())
def test_losses_and_gradients_of_any_parts_of_a_mini_batch_add_up_to_the_whole(
    aggregation: str, terms_of: Terms, data: st.DataObject
) -> None:
    whole = data.draw(mini_batches())
    inputs = trained(whole)
    size = {"tokens": int(whole.mask.sum()), "sequences": int(whole.mask.any(-1).sum())}

    def loss(batch: MiniBatch) -> Tensor:
        return (loss_weights(batch.mask, aggregation=aggregation, **size) * terms_of(batch)).sum()  # type: ignore[arg-type]

    parts = [loss(whole.rows(part)) for part in data.draw(splits(len(whole.mask)))]
    torch.testing.assert_close(sum(parts), loss(whole))
    added = [sum(of_parts) for of_parts in zip(*(gradients(part, inputs) for part in parts), strict=True)]
    torch.testing.assert_close(added, gradients(loss(whole), inputs))


@losses
@given(batch=mini_batches())
def test_what_stands_outside_the_responses_has_no_influence_on_losses_and_gradients(
    terms_of: Terms, batch: MiniBatch
) -> None:
    other = batch.outside(math.nan)
    inputs, other_inputs = trained(batch), trained(other)
    terms, other_terms = terms_of(batch), terms_of(other)
    assert not other_terms[~batch.mask].any()
    torch.testing.assert_close(other_terms, terms, rtol=0, atol=0)
    found = gradients(other_terms.sum(), other_inputs)
    for gradient in found:
        assert not gradient[~batch.mask].any()
    torch.testing.assert_close(found, gradients(terms.sum(), inputs), rtol=0, atol=0)


# Rewards and advantages


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


@given(mini_batches(), shares, shares)
def test_gae_is_the_lambda_weighted_mean_of_n_step_advantages(batch: MiniBatch, gamma: float, lam: float) -> None:
    """The forward view: (1 − λ) Σ_n λ^(n−1) A^(n), the last n taking the weight that is left."""
    advantages, returns = gae(batch.rewards, batch.values, batch.mask, gamma=gamma, lam=lam)
    expected = np.zeros(batch.mask.shape)
    for i, inside in enumerate(batch.mask.numpy()):
        rewards, values = batch.rewards[i].numpy()[inside], batch.values[i].numpy()[inside]
        length = len(rewards)
        estimates = np.zeros(length)
        for t in range(length):
            for n in range(1, length - t + 1):
                bootstrap = values[t + n] if t + n < length else 0.0
                n_step = np.polyval(rewards[t : t + n][::-1], gamma) + gamma**n * bootstrap - values[t]
                estimates[t] += lam ** (n - 1) * (1 - lam if t + n < length else 1) * n_step
        expected[i, inside] = estimates
    np.testing.assert_allclose(advantages, expected, atol=1e-12)
    np.testing.assert_allclose(returns, expected + np.where(batch.mask, batch.values, 0), atol=1e-12)


@given(mini_batches(), shares)
def test_gae_with_lambda_1_is_the_return_minus_the_value(batch: MiniBatch, gamma: float) -> None:
    advantages, returns = gae(batch.rewards, batch.values, batch.mask, gamma=gamma, lam=1.0)
    discounted = torch.zeros_like(batch.rewards)
    for t in range(batch.rewards.shape[1]):
        for u in range(t, batch.rewards.shape[1]):
            discounted[:, t] += gamma ** (u - t) * batch.rewards[:, u] * batch.mask[:, u] * batch.mask[:, t]
    torch.testing.assert_close(advantages, (discounted - batch.values) * batch.mask)
    torch.testing.assert_close(returns, discounted)


@given(mini_batches(), shares)
def test_gae_with_lambda_0_is_the_td_error(batch: MiniBatch, gamma: float) -> None:
    advantages, _ = gae(batch.rewards, batch.values, batch.mask, gamma=gamma, lam=0.0)
    following = torch.nn.functional.pad((batch.values * batch.mask)[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, (batch.rewards + gamma * following - batch.values) * batch.mask)


@given(mini_batches(), shares, shares)
def test_what_stands_outside_the_responses_has_no_influence_on_gae(batch: MiniBatch, gamma: float, lam: float) -> None:
    other = batch.outside(math.nan)
    changed = gae(other.rewards, other.values, batch.mask, gamma=gamma, lam=lam)
    for one, two in zip(gae(batch.rewards, batch.values, batch.mask, gamma=gamma, lam=lam), changed, strict=True):
        assert torch.equal(one, two)


def test_gae_leaves_its_inputs_as_they_are() -> None:
    batch = random_mini_batch(response_mask([0, 2], [4, 3], 6), seed=0)
    before = batch.rewards.clone(), batch.values.clone()
    gae(batch.rewards, batch.values, batch.mask)
    assert torch.equal(batch.rewards, before[0])
    assert torch.equal(batch.values, before[1])


@given(mini_batches().filter(lambda batch: bool(batch.mask.any())))
def test_whitening_is_division_by_the_root_mean_square_difference_of_pairs(batch: MiniBatch) -> None:
    """Var x = mean over all pairs of (x_i − x_j)² / 2."""
    entries = batch.rewards.numpy()[batch.mask.numpy()]
    scale = math.sqrt(np.square(np.subtract.outer(entries, entries)).mean() / 2)
    expected = (entries - np.average(entries)) / (scale or 1)
    whitened = whiten(batch.rewards, batch.mask)
    np.testing.assert_allclose(whitened[batch.mask], expected, rtol=1e-4, atol=1e-12)
    assert not whitened[~batch.mask].any()
    assert torch.equal(whiten(batch.outside(math.nan).rewards, batch.mask), whitened)


def test_whitened_entries_have_mean_0_and_standard_deviation_1() -> None:
    x = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7 + 100
    mask = response_mask([0, 3, 2, 8, 0], [9, 4, 5, 1, 0], 9)
    whitened = whiten(x, mask)
    assert float(masked_mean(whitened, mask)) == pytest.approx(0, abs=1e-12)
    assert float(masked_mean(whitened**2, mask)) == pytest.approx(1, abs=1e-6)


def test_equal_entries_are_whitened_to_0() -> None:
    assert whiten(row(3.0, 3.0), everywhere(row(3.0, 3.0))).tolist() == [[0.0, 0.0]]


# The policy's loss


def terms_at(ratios: Tensor, advantages: Tensor, high: float | None = None, dual: float | None = None) -> Tensor:
    old, mask = torch.zeros_like(ratios), everywhere(ratios)
    return policy_terms(ratios.log(), old, advantages, mask, clip_range=0.2, clip_range_high=high, dual_clip=dual)


def test_policy_terms_by_hand() -> None:
    terms = terms_at(row(1.0, 1.5, 1.5, 0.5, 0.5), row(2.0, 1.0, -1.0, 1.0, -1.0))
    # min(r A, clip(r) A): 2, min(1.5, 1.2), min(-1.5, -1.2), min(.5, .8), min(-.5, -.8)
    torch.testing.assert_close(terms, -row(2, 1.2, -1.5, 0.5, -0.8))


def test_clip_higher_lets_good_tokens_gain_more_and_changes_nothing_else() -> None:
    terms = terms_at(row(1.25, 1.5, 1.5, 0.5, 0.5), row(1.0, 1.0, -1.0, 1.0, -1.0), high=0.3)
    # min(1.25, 1.25), min(1.5, 1.3), min(-1.5, -1.3), min(.5, .8), min(-.5, -.8)
    torch.testing.assert_close(terms, -row(1.25, 1.3, -1.5, 0.5, -0.8))


def test_dual_clip_bounds_the_loss_of_bad_tokens_and_changes_nothing_else() -> None:
    terms = terms_at(row(2.9, 9.0, 0.5, 9.0, 9.0), row(-2.0, -2.0, -2.0, 2.0, 0.0), dual=3.0)
    # A < 0: max(-5.8, -6), max(-18, -6), max(-1.6, -6);  A >= 0: min(18, 2.4), 0
    torch.testing.assert_close(terms, row(5.8, 6.0, 1.6, -2.4, 0.0))


@given(
    mini_batches(),
    st.floats(0.01, 0.9),
    st.none() | st.floats(0.01, 2),
    st.none() | st.floats(1.001, 5),
    st.booleans(),
)
def test_policy_terms_are_the_advantage_times_a_ratio_bounded_from_the_side_that_pays(
    batch: MiniBatch, low: float, high: float | None, dual: float | None, weighted: bool
) -> None:
    terms = policy_terms(
        batch.logprobs,
        batch.old_logprobs,
        batch.advantages,
        batch.mask,
        clip_range=low,
        clip_range_high=high,
        dual_clip=dual,
        weights=batch.weights if weighted else None,
    ).numpy()
    for i, t in np.ndindex(terms.shape):
        if not batch.mask[i, t]:
            assert terms[i, t] == 0
            continue
        ratio = math.exp(batch.logprobs[i, t]) / math.exp(batch.old_logprobs[i, t])
        advantage = float(batch.advantages[i, t])
        if advantage >= 0:  # no gain beyond the upper bound
            bounded = min(ratio, 1 + (low if high is None else high))
        else:  # no relief below the lower bound, no more harm than the dual clip's
            bounded = min(max(ratio, 1 - low), math.inf if dual is None else dual)
        weight = float(batch.weights[i, t]) if weighted else 1.0
        assert terms[i, t] == pytest.approx(-weight * advantage * bounded, abs=1e-12)


def test_the_gradient_of_the_policy_terms_vanishes_only_where_clipping_binds() -> None:
    ratios, advantages = row(1.5, 1.5, 0.5, 0.5, 1.1, 4.0, 4.0), row(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
    logprobs = ratios.log().requires_grad_()
    mask = everywhere(ratios)
    terms = policy_terms(logprobs, torch.zeros_like(ratios), advantages, mask, clip_range=0.2, dual_clip=3.0)
    # d(-r A)/d(log r) = -r A where not clipped
    torch.testing.assert_close(gradients(terms.sum(), (logprobs,)), [row(0.0, 1.5, -0.5, 0.0, -1.1, 0.0, 0.0)])


def test_at_ratio_1_the_gradient_is_the_weighted_policy_gradient() -> None:
    logprobs = row(-1.0, -2.0).requires_grad_()
    terms = policy_terms(
        logprobs, logprobs.detach(), row(3.0, -4.0), everywhere(logprobs), clip_range=0.2, weights=row(0.5, 2.0)
    )
    torch.testing.assert_close(gradients(terms.sum(), (logprobs,)), [row(-1.5, 8.0)])


@losses
def test_the_gradients_of_the_losses_are_right(terms_of: Terms) -> None:
    batch = random_mini_batch(response_mask([0, 2, 1, 0], [9, 5, 0, 4], 9), seed=1)
    fixed = batch.logprobs.clone(), batch.values.clone()

    def of_trained(logprobs: Tensor, values: Tensor) -> Tensor:
        return terms_of(MiniBatch(**{**vars(batch), "logprobs": logprobs, "values": values}))

    assert torch.autograd.gradcheck(of_trained, [x.requires_grad_() for x in fixed])


def test_importance_weights_are_ratios_up_to_the_cap() -> None:
    ratios = row(0.25, 1.0, 1.9, 3.0)
    old = (ratios / 8).log().requires_grad_()
    mask = torch.tensor([[False, True, True, True]])
    weights = importance_weights(old, row(1 / 8, 1 / 8, 1 / 8, 1 / 8).log(), mask, cap=2.0)
    torch.testing.assert_close(weights, row(0.0, 1.0, 1.9, 2.0))
    assert not weights.requires_grad


def test_an_infinite_ratio_weighs_as_much_as_the_cap() -> None:
    assert importance_weights(row(0.0), row(-1e6), everywhere(row(0.0)), cap=2.0).tolist() == [[2.0]]


def test_uncapped_importance_weights_turn_means_under_the_sampler_into_means_under_the_trainer() -> None:
    old, sampled = (row(0.1, 0.2, 0.7), row(0.3, 0.3, 0.4))
    outcome = row(5.0, -1.0, 2.0)
    weights = importance_weights(old.log(), sampled.log(), everywhere(old), cap=math.inf)
    torch.testing.assert_close((sampled * weights * outcome).sum(), (old * outcome).sum())


# The critic's loss


def test_value_terms_by_hand() -> None:
    values, old, returns = row(1.0, 1.0, 0.1), row(0.0, 0.0, 0.0), row(2.0, 0.5, 1.0)
    terms = value_terms(values, old, returns, everywhere(values), value_clip=0.2)
    # clipped values .2, .2, .1: max((1-2)^2, (.2-2)^2), max(.5^2, .3^2), .9^2
    torch.testing.assert_close(terms, row(1.8**2, 0.5**2, 0.9**2) / 2)


def test_value_terms_push_no_further_where_clipping_binds() -> None:
    values = row(1.0, 1.0).requires_grad_()
    terms = value_terms(values, row(0.0, 0.0), row(2.0, 0.5), everywhere(values), value_clip=0.2)
    torch.testing.assert_close(gradients(terms.sum(), (values,)), [row(0.0, 0.5)])


@given(mini_batches(), st.none() | st.floats(0.01, 2))
def test_value_terms_are_half_the_square_of_the_larger_of_two_errors(batch: MiniBatch, clip: float | None) -> None:
    terms = value_terms(batch.values, batch.old_values, batch.returns, batch.mask, value_clip=clip)
    values, old, returns = batch.values.numpy(), batch.old_values.numpy(), batch.returns.numpy()
    nearest = values if clip is None else np.clip(values, old - clip, old + clip)
    largest = np.max(np.abs([values - returns, nearest - returns]), axis=0)
    np.testing.assert_allclose(terms, np.where(batch.mask, 0.5 * largest * largest, 0), atol=1e-12)


# KL and its coefficient


def policies(seed: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities of two policies over 6 tokens, (6,) each."""
    rng = torch.Generator().manual_seed(seed)
    one, two = torch.randn(2, 6, dtype=torch.float64, generator=rng).log_softmax(-1)
    return one, two


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_kl_loss_has_the_kl_from_train_to_ref_as_its_expectation_and_no_negative_term(seed: int) -> None:
    train, ref = policies(seed)
    terms = kl_loss_terms(train[None], ref[None], everywhere(train[None]))[0]
    assert (terms >= 0).all()
    assert float((train.exp() * terms).sum()) == pytest.approx(float((train.exp() * (train - ref)).sum()), abs=1e-12)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_gradient_of_the_kl_loss_is_in_expectation_that_of_the_kl_from_ref_to_train(seed: int) -> None:
    logits, ref = policies(seed)
    logits.requires_grad_()
    train = logits.log_softmax(-1)
    terms = kl_loss_terms(train[None], ref[None], everywhere(train[None]))[0]
    of_loss = gradients((train.detach().exp() * terms).sum(), (logits,))
    torch.testing.assert_close(of_loss, gradients((ref.exp() * (ref - train)).sum(), (logits,)))


@given(mini_batches())
def test_kl_loss_terms_are_the_area_between_the_exponential_and_its_tangent(batch: MiniBatch) -> None:
    """exp(x) − 1 − x = ∫ (exp(u) − 1) du from 0 to x, by Gauss-Legendre quadrature."""
    terms = kl_loss_terms(batch.logprobs, batch.ref_logprobs, batch.mask)
    x = (batch.ref_logprobs - batch.logprobs).numpy()
    nodes, quadrature = np.polynomial.legendre.leggauss(20)
    area = (quadrature * (np.exp(x[..., None] * (nodes + 1) / 2) - 1)).sum(-1) * x / 2
    np.testing.assert_allclose(terms, np.where(batch.mask, area, 0), atol=1e-12)


def test_the_kl_coefficient_rests_at_the_target_and_follows_the_error() -> None:
    def after(kl: float, responses: int = 100, horizon: int = 1000) -> float:
        return adapt_kl_coef(0.5, kl, target=6.0, horizon=horizon, responses=responses)

    assert after(6.0) == 0.5
    assert after(6.6) == pytest.approx(0.5 * (1 + 0.1 * 0.1))  # a tenth too much, a tenth of the horizon
    assert after(5.4) == pytest.approx(0.5 * (1 - 0.1 * 0.1))
    assert after(600.0) == pytest.approx(0.5 * (1 + 0.2 * 0.1))  # the error counts as a fifth at most
    assert after(0.0) == pytest.approx(0.5 * (1 - 0.2 * 0.1))
    assert after(600.0, responses=1000) == pytest.approx(0.5 * 1.2)
    assert after(600.0, horizon=100) == pytest.approx(0.5 * 1.2)


# Calibration of the critic


@given(mini_batches().filter(lambda batch: bool(batch.mask.any())))
def test_a_calibrated_critic_has_the_returns_mean(batch: MiniBatch) -> None:
    shift = calibration_shift(batch.values, batch.returns, batch.mask)
    values, returns = batch.values.numpy()[batch.mask.numpy()], batch.returns.numpy()[batch.mask.numpy()]
    assert np.mean(values + shift) == pytest.approx(np.mean(returns), abs=1e-12)


def test_calibration_undoes_an_offset_of_the_critic_given_returns_of_lambda_1_and_a_part_of_it_otherwise() -> None:
    mask = response_mask([1, 0], [3, 2], 4)
    scores, offset, lam = torch.tensor([2.0, -1.0]).double(), -0.56, 0.5
    rewards = token_rewards(scores, mask, sample_logprobs=torch.zeros(2, 4, dtype=torch.float64))
    values = scores[:, None].expand(2, 4) + offset
    _, returns = gae(rewards, values, mask, lam=1.0)
    assert calibration_shift(values, returns, mask) == pytest.approx(-offset)
    _, returns = gae(rewards, values, mask, lam=lam)
    remaining = (lam**2 + lam + 1) + (lam + 1)  # λ^n, n tokens before the end: rows of 3 and of 2
    assert calibration_shift(values, returns, mask) == pytest.approx(-offset * remaining / 5)


# The router


def router(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (3 layers, 2, 5, 4 experts) and a mask with padding."""
    logits = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(seed))
    return logits, torch.tensor([[True] * 5, [True] * 2 + [False] * 3])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_router_statistics_count_the_most_probable_experts_and_add_up_probabilities(seed: int, top_k: int) -> None:
    logits, mask = router(seed)
    counts, sums = router_statistics(logits, mask, top_k=top_k)
    expected_counts, expected_sums = np.zeros((3, 4), dtype=int), np.zeros((3, 4))
    for layer, i, t in np.ndindex(3, 2, 5):
        if mask[i, t]:
            scores = logits[layer, i, t].double().numpy()
            for expert in np.argsort(-scores)[:top_k]:
                expected_counts[layer, expert] += 1
            expected_sums[layer] += np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5)


def test_the_load_balancing_loss_and_its_gradient_are_those_of_transformers() -> None:
    logits, mask = router()
    logits.requires_grad_()
    ours = load_balancing_loss(*router_statistics(logits, mask, top_k=2), int(mask.sum()))
    theirs = load_balancing_loss_func(tuple(logits.flatten(1, 2)), 4, 2, mask.long())
    assert isinstance(theirs, Tensor)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, (logits,)), gradients(theirs, (logits,)))


def test_load_balancing_losses_of_parts_with_the_counts_of_the_whole_add_up_to_the_whole() -> None:
    logits, mask = router()
    logits.requires_grad_()
    parts = [router_statistics(logits[:, i : i + 1], mask[i : i + 1], top_k=2) for i in range(2)]
    counts, tokens = parts[0][0] + parts[1][0], int(mask.sum())
    added = sum(load_balancing_loss(counts, sums, tokens) for _, sums in parts)
    assert isinstance(added, Tensor)
    whole = load_balancing_loss(*router_statistics(logits, mask, top_k=2), tokens)
    torch.testing.assert_close(added, whole)
    torch.testing.assert_close(gradients(added, (logits,)), gradients(whole, (logits,)))


def test_the_gradient_of_the_load_balancing_loss_is_right() -> None:
    logits, mask = router()
    counts, _ = router_statistics(logits, mask, top_k=2)

    def loss(logits: Tensor) -> Tensor:
        return load_balancing_loss(counts, logits[:, mask].softmax(-1).sum(1), int(mask.sum()))

    assert torch.autograd.gradcheck(loss, [logits.double().requires_grad_()])


def test_a_balanced_router_has_a_load_balancing_loss_of_1_and_a_collapsed_one_of_its_experts() -> None:
    mask = torch.ones(1, 8, dtype=torch.bool)
    balanced = torch.eye(4).repeat(2, 1)[None, None] * 9  # 8 tokens, each expert is first twice
    assert float(load_balancing_loss(*router_statistics(balanced, mask, top_k=1), 8)) == pytest.approx(1)
    collapsed = torch.zeros(1, 1, 8, 4).index_fill(-1, torch.tensor([2]), 99.0)
    assert float(load_balancing_loss(*router_statistics(collapsed, mask, top_k=1), 8)) == pytest.approx(4)
