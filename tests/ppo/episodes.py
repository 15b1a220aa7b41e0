"""Small tensors for tests of PPO's mathematics: rows by hand, masks, and mini-batches that hypothesis draws."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def response_mask(starts: list[int], lengths: list[int], width: int) -> Tensor:
    positions = torch.arange(width)
    ends = torch.tensor(starts) + torch.tensor(lengths)
    return (positions >= torch.tensor(starts)[:, None]) & (positions < ends[:, None])


@dataclass(frozen=True)
class MiniBatch:
    """All that the losses read, (B, T) each and float64."""

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    weights: Tensor
    advantages: Tensor
    rewards: Tensor
    values: Tensor
    old_values: Tensor
    returns: Tensor
    mask: Tensor

    def rows(self, chosen: list[int]) -> "MiniBatch":
        """Some rows, trimmed to the last response token of any of them."""
        ends = self.mask[chosen].any(0).nonzero()
        width = int(ends[-1]) + 1 if len(ends) else 1
        return MiniBatch(**{name: x[chosen, :width] for name, x in vars(self).items()})

    def outside(self, filling: float) -> "MiniBatch":
        """The same with every number outside the responses replaced."""
        numbers = {name: torch.where(self.mask, x, filling) for name, x in vars(self).items() if name != "mask"}
        return MiniBatch(**numbers, mask=self.mask)


def random_mini_batch(mask: Tensor, seed: int) -> MiniBatch:
    rng = np.random.default_rng(seed)
    old_logprobs, values = -rng.exponential(size=mask.shape), rng.normal(size=mask.shape)
    numbers = {
        "logprobs": old_logprobs + rng.normal(scale=0.5, size=mask.shape),
        "old_logprobs": old_logprobs,
        "ref_logprobs": old_logprobs + rng.normal(scale=0.5, size=mask.shape),
        "weights": rng.uniform(0.1, 2, size=mask.shape),
        "advantages": rng.normal(size=mask.shape),
        "rewards": rng.normal(size=mask.shape),
        "values": values + rng.normal(scale=0.5, size=mask.shape),
        "old_values": values,
        "returns": rng.normal(size=mask.shape),
    }
    return MiniBatch(**{name: torch.from_numpy(x) for name, x in numbers.items()}, mask=mask)


@st.composite
def mini_batches(draw: st.DrawFn) -> MiniBatch:
    """Responses, also of length 0, anywhere in a wider tensor."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    starts = [draw(st.integers(0, width - 1)) for _ in range(rows)]
    lengths = [draw(st.integers(0, width - start)) for start in starts]
    return random_mini_batch(response_mask(starts, lengths, width), draw(st.integers(0, 2**32 - 1)))


@st.composite
def splits(draw: st.DrawFn, rows: int) -> list[list[int]]:
    """The numbers of `rows` rows in any order, cut anywhere into parts that are not empty."""
    order = draw(st.permutations(range(rows)))
    cuts = sorted(draw(st.sets(st.integers(1, rows - 1)))) if rows > 1 else []
    return [list(order[start:end]) for start, end in zip([0, *cuts], [*cuts, rows], strict=True)]
