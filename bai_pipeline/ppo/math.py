"""The mathematics of PPO as pure functions: tensors in, tensors out; what is read and not trained is in `diagnostics`.

B sequences, T token positions, V vocabulary, E experts. `mask` is True on response tokens, the end-of-sequence token
included, and they are contiguous in every row; whatever stands elsewhere has no influence on a result or a gradient.

A mini-batch may be spread over ranks and over parts of a rank, so losses are terms, one a token and 0 outside `mask`.
With `loss_weights` of the whole mini-batch,

    loss = Σ weights · terms

is additive: the parts' losses and gradients add up to those of the whole.
"""

from typing import Literal

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probability of each of `tokens` (B, T) under softmax(logits / temperature), logits (B, T, V): (B, T)."""
    return _of_tokens((logits / temperature).log_softmax(-1), tokens)


def entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of softmax(logits / temperature), logits (B, T, V): (B, T)."""
    return _entropy((logits / temperature).log_softmax(-1))


def logprobs_and_entropy(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_logprobs` and `entropy`, both (B, T) and differentiable, for the price of one log-softmax."""
    logprobs = (logits / temperature).log_softmax(-1)
    return _of_tokens(logprobs, tokens), _entropy(logprobs)


def _of_tokens(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """The entries (B, T) of `logprobs` (B, T, V) that `tokens` (B, T) choose."""
    return logprobs.gather(-1, tokens[..., None])[..., 0]


def _entropy(logprobs: Tensor) -> Tensor:
    """Entropy (B, T) of the distributions with `logprobs` (B, T, V)."""
    return -(logprobs.exp() * logprobs).sum(-1)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` (B, T) over the True entries of `mask` (B, T): a scalar."""
    return x[mask].mean()


def loss_weights(mask: Tensor, *, aggregation: Literal["token", "sequence"], tokens: int, sequences: int) -> Tensor:
    """Weight of every token in a mini-batch's loss; over the whole mini-batch they sum to 1.

        token:     w_t = 1 / tokens                             the mean over tokens: long responses count more
        sequence:  w_t = 1 / (length of its row · sequences)    the mean over sequences of their means

    Token-level: DAPO (Yu et al. 2025, arXiv:2503.14476, section 3.3). Sequence-level: GRPO (Shao et al. 2024,
    arXiv:2402.03300).

    Args:
        mask: (B, T), of any part of the mini-batch that holds whole rows.
        tokens, sequences: how many response tokens and rows the whole mini-batch has.

    Returns:
        (B, T), 0 outside the response.
    """
    if aggregation == "token":
        return mask / max(tokens, 1)
    return mask / (mask.sum(-1, keepdim=True).clamp(min=1) * max(sequences, 1))


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

    V is 0 after the last response token. Not whitened: see `whiten`. Decoupled GAE (Yuan et al. 2025, arXiv:2503.01491)
    is two calls: advantages of the actor's λ, returns of the critic's.

    Args:
        rewards, mask: (B, T).
        values: (B, T), V_t is the value of the state before token t.

    Returns:
        advantages and returns A_t + V_t, both (B, T) and 0 outside the response.
    """
    inside = torch.where(mask, values, 0.0)
    following = torch.nn.functional.pad(inside[:, 1:], (0, 1))
    advantages = torch.where(mask, rewards + gamma * following - inside, 0.0)
    carries = mask.to(advantages.dtype)
    for t in reversed(range(advantages.shape[1] - 1)):
        advantages[:, t].addcmul_(advantages[:, t + 1], carries[:, t], value=gamma * lam)
    return advantages, advantages + inside


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """`x` (B, T) shifted and scaled to mean 0 and standard deviation 1 over `mask`; 0 elsewhere, mean not added back.

    The standard deviation is the population's (divisor n), so one entry, or equal ones, become 0.
    """
    entries = x[mask]
    return torch.where(mask, (x - entries.mean()) / (entries.std(correction=0) + eps), 0.0)


@torch.no_grad()
def importance_weights(old_logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weights of what the trainer and the sampler compute differently from the same weights.

        w_t = min(π_old(a_t) / π_sample(a_t), cap)

    Multiplied with `policy_terms` whose ratio is to π_old, they stand for tokens drawn from π_old (Yao et al. 2025,
    fengyao.notion.site/off-policy-rl). The truncation bounds the variance and biases towards π_sample where it binds:
    the ρ̄ of V-trace (Espeholt et al. 2018, arXiv:1802.01561).

    Args:
        old_logprobs: (B, T), by the trainer's forward pass before the update.
        sample_logprobs: (B, T), by the sampler.
        mask: (B, T).

    Returns:
        (B, T), without gradient and 0 outside the response.
    """
    return torch.where(mask, (old_logprobs - sample_logprobs).exp().clamp(max=cap), 0.0)


def policy_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """PPO's clipped surrogate, to be minimised (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

        r_t = π_train(a_t) / π_old(a_t)
        L_t = −w_t min(r_t A_t, clip(r_t, 1 − ε, 1 + ε_high) A_t)

    With dual clip c (Ye et al. 2020, arXiv:1912.09729), which bounds what one unlikely token can do to the policy,

        L_t = −w_t max(min(r_t A_t, clip(r_t, 1 − ε, 1 + ε_high) A_t), c A_t)    where A_t < 0

    Args:
        logprobs: (B, T), of the policy in training; the gradient flows through it.
        old_logprobs: (B, T), of the policy before the update: the sampler's, or the trainer's with `weights`.
        advantages, mask: (B, T).
        clip_range: ε.
        clip_range_high: ε_high (clip-higher, Yu et al. 2025, arXiv:2503.14476, section 3.1); None: ε.
        dual_clip: c > 1; None: no bound.
        weights: (B, T), w of `importance_weights`; None: 1.

    Returns:
        (B, T), 0 outside the response.
    """
    ratio = torch.where(mask, logprobs - old_logprobs, 0.0).exp()
    clipped_ratio = ratio.clamp(1 - clip_range, 1 + (clip_range if clip_range_high is None else clip_range_high))
    objective = torch.minimum(ratio * advantages, clipped_ratio * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    if weights is not None:
        objective = objective * weights
    return torch.where(mask, -objective, 0.0)


def value_terms(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, value_clip: float | None
) -> Tensor:
    """Half the squared error of the critic, clipped around its value at sampling time.

        V' = V_old + clip(V − V_old, −c, c)
        L_t = max((V − R)², (V' − R)²) / 2

    The clipping is that of OpenAI baselines' ppo2 (Engstrom et al. 2020, arXiv:2005.12729, section 3).

    Args:
        values: (B, T), of the critic in training; the gradient flows through it.
        old_values, returns, mask: (B, T).
        value_clip: c; None for the plain squared error.

    Returns:
        (B, T), 0 outside the response.
    """
    squared = torch.where(mask, values - returns, 0.0) ** 2
    if value_clip is not None:
        clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
        squared = torch.maximum(squared, torch.where(mask, clipped - returns, 0.0) ** 2)
    return squared / 2


def kl_loss_terms(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The k3 estimate of KL(π_train ‖ π_ref) on tokens of π_train, as a loss (GRPO, arXiv:2402.03300, eq. 4).

        L_t = π_ref(a_t) / π_train(a_t) − log(π_ref(a_t) / π_train(a_t)) − 1

    Never negative, 0 where the two agree. The value has KL(π_train ‖ π_ref) as its expectation; the gradient through
    `logprobs`, (1 − π_ref / π_train) ∇ log π_train, has that of the other direction, ∇ KL(π_ref ‖ π_train), because the
    tokens' own dependence on π_train is not differentiated (compare Liu et al. 2025, arXiv:2510.01555).

    Args:
        logprobs: (B, T), of the policy in training; the gradient flows through it.
        ref_logprobs, mask: (B, T).

    Returns:
        (B, T), 0 outside the response.
    """
    log_ratio = torch.where(mask, ref_logprobs - logprobs, 0.0)
    return torch.expm1(log_ratio) - log_ratio


def adapt_kl_coef(coef: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """The next coefficient of the KL penalty (adaptive controller, Ziegler et al. 2019, arXiv:1909.08593, section 2.2).

        e = clip(kl / target − 1, −0.2, 0.2)
        coef ← coef (1 + e · responses / horizon)

    The paper's gain K_β is responses / horizon, as in its code (github.com/openai/lm-human-preferences).

    Args:
        kl: KL from the reference per response, summed over its tokens; mean of the last batch.
        target: the KL per response to hold.
        horizon: responses over which the coefficient moves by at most a factor of about e^±0.2.
        responses: of the last batch; fewer than 5 · horizon, or the coefficient could turn negative.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * responses / horizon)


@torch.no_grad()
def calibration_shift(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """What to add to the critic so that its mean value is the mean return: mean[R] − mean[V] over response tokens.

    Args:
        values, mask: (B, T).
        returns: (B, T), of λ = 1. Those of a smaller λ are partly made of `values` and hide a part of their offset: of
            an offset b, what is left n tokens before the end is b λ^n.
    """
    return float(masked_mean(returns - values, mask))


def router_statistics(router_logits: Tensor, mask: Tensor, *, top_k: int) -> tuple[Tensor, Tensor]:
    """What `load_balancing_loss` and `expert_load` need of a router, as sums over tokens: parts of a batch add up.

    Args:
        router_logits: (layers, B, T, E).
        mask: (B, T), the tokens to count.
        top_k: experts per token.

    Returns:
        How many tokens chose each expert, int64, and the sum of each expert's probability, through which the gradient
        flows, float32; both (layers, E).
    """
    probabilities = router_logits[:, mask].float().softmax(-1)  # (layers, tokens, E)
    chosen = probabilities.topk(top_k, -1).indices.flatten(1)  # (layers, tokens top_k)
    counts = torch.zeros_like(probabilities[:, 0], dtype=torch.int64)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen))
    return counts, probabilities.sum(1)


def load_balancing_loss(counts: Tensor, probability_sums: Tensor, tokens: int) -> Tensor:
    """Router load-balancing loss (Fedus et al. 2022, arXiv:2101.03961, eqs. 4-6) as transformers computes it for OLMoE.

        L = E Σ_e f_e P_e

    f_e is the mean number of a token's top-k choices that fall on expert e, P_e the mean probability of e, both over
    all tokens in all layers together; top_k when balanced. Linear in `probability_sums`: with the counts and tokens of
    the whole batch, the losses of its parts' probability sums add up to that of the whole.

    Args:
        counts, probability_sums: (layers, E), of `router_statistics`.
        tokens: how many tokens they count.

    Returns:
        A scalar.
    """
    layers, experts = counts.shape
    return experts * (counts.sum(0) * probability_sums.sum(0)).sum() / (layers * tokens) ** 2
