"""Which token comes next: random numbers by token and row, and what becomes a token of them.

R rows, V vocabulary.
"""

import torch
from torch import Tensor

from bai_pipeline.ppo.rollouts.interface import Sampling


class Uniforms:
    """Numbers in [0, 1) by token index and row: index t takes the generator's t-th `total` numbers, drawn when needed.

    A response so depends on its row's number, not on when it starts or on which rows are sampled beside it.
    """

    def __init__(self, generator: torch.Generator, limit: int, total: int) -> None:
        self._generator, self._limit = generator, limit
        # Index `limit` is for rows that have all their tokens and are still in the batch.
        self._numbers = torch.zeros(limit + 1, total, dtype=torch.float64)
        self._drawn = 0

    def __call__(self, indices: Tensor, rows: Tensor) -> Tensor:
        """(R,) for token numbers `indices` (R,), at most `limit`, of `rows` (R,)."""
        total = self._numbers.shape[1]
        while self._drawn < min(int(indices.max()) + 1, self._limit):
            self._numbers[self._drawn] = torch.rand(total, generator=self._generator, dtype=torch.float64)
            self._drawn += 1
        return self._numbers[indices, rows]


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-probability, both (R,), from `logits` (R, V).

    Args:
        uniforms: (R,) in [0, 1); None takes the most probable token.
    """
    if uniforms is None:
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.argmax(-1)
    else:
        logprobs = (logits / sampling.temperature).log_softmax(-1)
        chosen = draw(cut(logprobs, sampling.top_k, sampling.top_p), uniforms)
    return chosen, logprobs.gather(1, chosen[:, None])[:, 0]


def cut(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """`logprobs` (R, V) with -inf outside the `top_k` most probable tokens (0: all) and outside their nucleus.

    The nucleus is the smallest set of most probable tokens that has the share `top_p` of the probability of the top_k
    (Holtzman et al. 2020, arXiv:1904.09751). Not renormalised.
    """
    if top_k <= 0 and top_p >= 1:
        return logprobs
    ordered, order = logprobs.sort(stable=True, dim=-1, descending=True)
    outside = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k > 0:
        outside[:, top_k:] = True
    if top_p < 1:
        probabilities = ordered.exp().masked_fill(outside, 0)
        before = probabilities.cumsum(-1) - probabilities  # of all that are more probable
        outside |= before >= top_p * probabilities.sum(-1, keepdim=True)
    return logprobs.masked_fill(torch.empty_like(outside).scatter_(-1, order, outside), -torch.inf)


def draw(logprobs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (R,) by inversion: the first whose cumulative probability exceeds `uniform` (R,) in [0, 1).

    In float64 `uniform * total < total` holds for every total, so a token of probability 0 is never drawn.
    """
    cumulative = logprobs.double().exp().cumsum(-1)  # (R, V)
    targets = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]
