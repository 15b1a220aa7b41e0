"""The mathematics of PPO as pure functions: tensors in, tensors out.

B sequences, T token positions, V vocabulary. `mask` is True on response tokens, the end-of-sequence token included,
and they are contiguous in every row; whatever stands elsewhere has no influence. A mean is over the True entries.

A KL's name carries its direction. With r = π_train / π_sample on tokens drawn from π_sample:

    mean[r log r − (r − 1)]   estimates KL(π_train ‖ π_sample)      `kl_train_sample`
    mean[(r − 1) − log r]     estimates KL(π_sample ‖ π_train)      `k3_kl_sample_train`, the usual "k3"

Both are never negative and 0 where r = 1 (Schulman 2020, joschu.net/blog/kl-approx.html).
"""

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each of `tokens` (B, T) under softmax(logits / temperature), logits (B, T, V): (B, T)."""
    return (logits / temperature).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature), logits (B, T, V): (B, T)."""
    logprobs = (logits / temperature).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (B, T) over the True entries of `mask` (B, T): a scalar."""
    return x[mask].mean()


@torch.no_grad()
def token_rewards(
    scores: Tensor, mask: Tensor, *, sample_logprobs: Tensor, ref_logprobs: Tensor | None = None, kl_coef: float = 0.0
) -> Tensor:
    """Rewards per token: a KL penalty on each, and the score on the last (Ouyang et al. 2022, arXiv:2203.02155, eq. 2).

        r_t = −kl_coef (log π_sample(a_t) − log π_ref(a_t)) + score · [t is the last response token]

    Args:
        scores: (B,), one per sequence.
        mask, sample_logprobs, ref_logprobs: (B, T); without `ref_logprobs` there is no penalty.

    Returns:
        (B, T), 0 outside the response.
    """
    rewards = torch.zeros_like(sample_logprobs)
    if ref_logprobs is not None:
        rewards = torch.where(mask, -kl_coef * (sample_logprobs - ref_logprobs), rewards)
    last = mask & ~torch.nn.functional.pad(mask[:, 1:], (0, 1))
    return rewards + last * scores[:, None]


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimates (Schulman et al. 2016, arXiv:1506.02438).

        δ_t = r_t + γ V_{t+1} − V_t
        A_t = δ_t + γλ A_{t+1}

    V is 0 after the last response token. Not whitened: see `whiten`.

    Args:
        rewards, mask: (B, T).
        values: (B, T), V_t is the value of the state before token t.

    Returns:
        advantages and returns A_t + V_t, both (B, T) and 0 outside the response.
    """
    advantages = torch.zeros_like(rewards)
    advantage = next_value = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        inside = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(inside, delta + gamma * lam * advantage, 0.0)
        next_value = torch.where(inside, values[:, t], 0.0)
        advantages[:, t] = advantage
    return advantages, torch.where(mask, advantages + values, 0.0)


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """`x` (B, T) shifted and scaled to mean 0 and standard deviation 1 over `mask`; 0 elsewhere, mean not added back.

    The standard deviation is the population's (divisor n), so one entry, or equal ones, become 0.
    """
    entries = x[mask]
    return torch.where(mask, (x - entries.mean()) / (entries.std(correction=0) + eps), 0.0)


def policy_loss(
    logprobs: Tensor, sample_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip_range: float
) -> Tensor:
    """PPO's clipped surrogate, to be minimised (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

        r_t = π_train(a_t) / π_sample(a_t)
        L = −mean[min(r_t A_t, clip(r_t, 1 − ε, 1 + ε) A_t)]

    Args:
        logprobs: (B, T), of the policy in training; the gradient flows through it.
        sample_logprobs, advantages, mask: (B, T).
        clip_range: ε.

    Returns:
        A scalar, the mean over response tokens.
    """
    ratio = (logprobs - sample_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, value_clip: float | None
) -> Tensor:
    """Half the squared error of the critic, clipped around its value at sampling time.

        V' = V_old + clip(V − V_old, −c, c)
        L = mean[max((V − R)², (V' − R)²)] / 2

    The clipping is that of OpenAI baselines' ppo2 (Engstrom et al. 2020, arXiv:2005.12729, section 3).

    Args:
        values: (B, T), of the critic in training; the gradient flows through it.
        old_values, returns, mask: (B, T).
        value_clip: c; None for the plain squared error.

    Returns:
        A scalar, the mean over response tokens.
    """
    error = (values - returns) ** 2
    if value_clip is not None:
        clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
        error = torch.maximum(error, (clipped - returns) ** 2)
    return masked_mean(error, mask) / 2


@torch.no_grad()
def clip_fraction(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor, *, clip_range: float) -> Tensor:
    """Share of response tokens whose ratio π_train / π_sample is outside 1 ± clip_range; all (B, T): a scalar."""
    ratio = (logprobs - sample_logprobs).exp()
    return masked_mean(((ratio - 1).abs() > clip_range).float(), mask)


@torch.no_grad()
def kl_train_sample(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(π_train ‖ π_sample) from tokens of π_sample: mean[r log r − (r − 1)], r = π_train / π_sample.

    All (B, T): a scalar. r log r carries the importance weight that makes the sample's tokens stand for the
    training policy's; −(r − 1), whose expectation is 0, takes variance away and keeps every term ≥ 0.
    """
    log_ratio = logprobs - sample_logprobs
    return masked_mean(log_ratio.exp() * log_ratio - torch.expm1(log_ratio), mask)


@torch.no_grad()
def k3_kl_sample_train(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(π_sample ‖ π_train) from tokens of π_sample: mean[(r − 1) − log r], r = π_train / π_sample.

    All (B, T): a scalar. The opposite direction of `kl_train_sample`. With π_ref in the place of π_train it is the
    distance of the sampling policy from the reference.
    """
    log_ratio = logprobs - sample_logprobs
    return masked_mean(torch.expm1(log_ratio) - log_ratio, mask)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var[R − V] / Var[R] over response tokens; 1 is a perfect critic, 0 a constant one; NaN if R is constant.

    All (B, T): a scalar.
    """
    variance = returns[mask].var(correction=0)
    return torch.where(variance > 0, 1 - (returns - values)[mask].var(correction=0) / variance, torch.nan)


@torch.no_grad()
def load_balancing_loss(router_logits: Tensor, mask: Tensor, *, top_k: int) -> Tensor:
    """Router load-balancing loss (Fedus et al. 2022, arXiv:2101.03961, eqs. 4-6) as transformers computes it for OLMoE.

        L = E Σ_e f_e P_e

    f_e is the mean number of a token's top-k choices that fall on expert e, P_e the mean probability of e, both over
    the tokens of `mask` in all layers; top_k when balanced.

    Args:
        router_logits: (layers, B, T, E).
        mask: (B, T).

    Returns:
        A scalar.
    """
    probabilities = router_logits[:, mask].float().softmax(-1).flatten(0, 1)  # (layers tokens, E)
    experts = probabilities.shape[-1]
    chosen = probabilities.topk(top_k, -1).indices
    share = torch.bincount(chosen.flatten(), minlength=experts) / len(probabilities)
    return experts * (share * probabilities.mean(0)).sum()
