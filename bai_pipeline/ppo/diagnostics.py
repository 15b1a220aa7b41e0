"""What is read from a PPO step and not trained: pure functions, shapes and `mask` as in `math`.

Sums and counts, and terms that are 0 outside `mask`, can be added up over the parts of a batch before they are divided.

A KL's name carries its direction. With r = π_train / π_sample on tokens drawn from π_sample:

    mean[r log r − (r − 1)]   estimates KL(π_train ‖ π_sample)      `kl_train_sample`
    mean[(r − 1) − log r]     estimates KL(π_sample ‖ π_train)      `k3_kl_sample_train`, the usual "k3"

Both are never negative and 0 where r = 1 (Schulman 2020, joschu.net/blog/kl-approx.html).
"""

import math

import torch
from torch import Tensor

from bai_pipeline.ppo.math import kl_loss_terms, masked_mean


@torch.no_grad()
def kl_train_sample_terms(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Terms r log r − (r − 1), r = π_train / π_sample, whose mean estimates KL(π_train ‖ π_sample); all (B, T).

    r log r carries the importance weight that makes the sample's tokens stand for the training policy's; −(r − 1),
    whose expectation is 0, takes variance away and keeps every term ≥ 0.
    """
    log_ratio = torch.where(mask, logprobs - sample_logprobs, 0.0)
    return log_ratio.exp() * log_ratio - torch.expm1(log_ratio)


@torch.no_grad()
def kl_train_sample(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(π_train ‖ π_sample) from tokens of π_sample, all (B, T): the mean of its terms, a scalar."""
    return masked_mean(kl_train_sample_terms(logprobs, sample_logprobs, mask), mask)


@torch.no_grad()
def k3_kl_sample_train(logprobs: Tensor, sample_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Estimate of KL(π_sample ‖ π_train) from tokens of π_sample: mean[(r − 1) − log r], r = π_train / π_sample.

    All (B, T): a scalar. The opposite direction of `kl_train_sample`. With π_ref in the place of π_train it is the
    distance of the sampling policy from the reference. Per token: `kl_loss_terms(sample_logprobs, logprobs, mask)`.
    """
    return masked_mean(kl_loss_terms(sample_logprobs, logprobs, mask), mask)


@torch.no_grad()
def clipped(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, clip_range: float, clip_range_high: float | None = None
) -> Tensor:
    """Whether a token's ratio π_train / π_old is outside [1 − clip_range, 1 + clip_range_high]; all (B, T), bool."""
    ratio = (logprobs - old_logprobs).exp()
    high = clip_range if clip_range_high is None else clip_range_high
    return mask & ((ratio < 1 - clip_range) | (ratio > 1 + high))


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var[R − V] / Var[R] over response tokens; 1 is a perfect critic, 0 a constant one; NaN if R is constant.

    All (B, T): a scalar.
    """
    variance = returns[mask].var(correction=0)
    return torch.where(variance > 0, 1 - (returns - values)[mask].var(correction=0) / variance, torch.nan)


@torch.no_grad()
def value_error_by_prefix(values: Tensor, returns: Tensor, mask: Tensor, *, width: int) -> tuple[Tensor, Tensor]:
    """The critic's error V − R by how much of the response it has read, in buckets of `width` tokens.

    V_t has read the t tokens before token t of the response; bucket i holds i · width ≤ t < (i + 1) · width, and its
    mean error is sums[i] / counts[i]. A critic that is wrong about short prefixes shortens or lengthens the responses
    of the first steps, before any reward is hacked.

    Args:
        values, mask: (B, T).
        returns: (B, T), of λ = 1, or they hide a part of the error (see `calibration_shift`).
        width: tokens of a bucket.

    Returns:
        Sums, float64, and counts, int64, both (⌈T / width⌉,): from tensors of different T, pad with 0 to add them up.
    """
    bucket = ((mask.cumsum(-1) - 1) // width)[mask]
    counts = torch.zeros(math.ceil(mask.shape[1] / width), dtype=torch.int64, device=mask.device)
    counts.index_add_(0, bucket, torch.ones_like(bucket))
    sums = torch.zeros_like(counts, dtype=torch.float64)
    sums.index_add_(0, bucket, (values - returns)[mask].double())
    return sums, counts


@torch.no_grad()
def stop_gap(advantages: Tensor, ended: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What the step's update pays for stopping, beside going on: the two sides' advantages.

        gap = mean[A_t | a_t is a stop token] − mean[A_t | a_t is another token]
            = sums[0] / counts[0] − sums[1] / counts[1]

    Positive: responses are about to shorten. Undefined where a count is 0.

    Args:
        advantages: (B, T), not whitened where the gap is to be in units of reward.
        ended: (B, T), True where the sampled token is a stop token.
        mask: (B, T).

    Returns:
        Sums, float64, and counts, int64, both (2,): of stop tokens, of others.
    """
    sides = torch.stack([mask & ended, mask & ~ended])  # (2, B, T)
    return torch.where(sides, advantages.double(), 0.0).sum((1, 2)), sides.sum((1, 2))


def expert_load(counts: Tensor) -> dict[str, float]:
    """How evenly a router's choices fall on the experts of each layer; `counts` (layers, E) of `router_statistics`.

    Returns:
        expert_load_max: largest share of a layer's choices that falls on one expert, times E, of the worst layer;
            1 when balanced, E / top_k when all tokens choose the same experts.
        expert_load_entropy: entropy of a layer's shares over log E, mean over layers; 1 when balanced,
            log top_k / log E when all tokens choose the same experts.
    """
    experts = counts.shape[1]
    share = counts.double() / counts.sum(1, keepdim=True)
    return {
        "expert_load_max": float(share.max()) * experts,
        "expert_load_entropy": float(torch.special.entr(share).sum(1).mean()) / math.log(experts),
    }
