"""What a rollout batch becomes for training: tensors, padded on the right.

B sequences of prompt and response, L tokens of the longest, T = L − 1. Entry t of a (B, T) tensor speaks about token
t + 1: its log-probability comes from the logits at t, and the value of the state before it is the critic's output at t.
Under a causal model the padding on the right is seen by no token, so no attention mask is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from bai_pipeline.ppo.ranks import Ranks


@dataclass(frozen=True)
class Experience:
    """A rollout batch, or some rows of it. Every rank holds the whole batch: it is small beside a model."""

    tokens: Tensor
    """(B, L)"""
    lengths: Tensor
    """(B,), tokens of prompt and response."""
    mask: Tensor
    """(B, T), True where token t + 1 belongs to the response."""
    sample_logprobs: Tensor
    """(B, T), under the distribution that was sampled from."""
    old_logprobs: Tensor
    """(B, T), the denominator of the ratio: the sampler's, or the trainer's own before the update."""
    ref_logprobs: Tensor
    """(B, T), under the reference; 0 without one."""
    values: Tensor
    """(B, T), by the critic before the update."""
    advantages: Tensor
    """(B, T)"""
    returns: Tensor
    """(B, T), what the critic learns."""
    earned: Tensor
    """(B, T), sums of the rewards to come."""

    @property
    def inputs(self) -> Tensor:
        """(B, T): what the models read."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        """(B, T): the tokens that the entries speak about."""
        return self.tokens[:, 1:]

    @property
    def real(self) -> Tensor:
        """(B, T): True where `inputs` is not padding."""
        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        return positions < self.lengths[:, None] - 1

    def rows(self, indices: Tensor) -> "Experience":
        """The given rows, trimmed to the longest of them."""
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        entries = {name: getattr(self, name)[indices, : longest - 1] for name in _ENTRIES}
        return Experience(self.tokens[indices, :longest], lengths, **entries)

    def with_entries(self, **entries: Tensor) -> "Experience":
        """The same rollouts with what is known of their tokens by now."""
        return replace(self, **entries)

    def compute(self, function: Callable[["Experience"], Tensor], chunk: int, ranks: Ranks) -> Tensor:
        """`function` of all rows: (B, T), 0 beyond a chunk's longest row.

        The ranks share the rows; each takes `chunk` rows of similar length at a time.
        """
        result = torch.zeros_like(self.sample_logprobs)
        share = self.lengths.argsort(stable=True)[ranks.rank :: ranks.size]
        with torch.no_grad():
            for indices in torch.split(share, chunk):
                part = self.rows(indices)
                result[indices, : part.mask.shape[1]] = function(part)
        return ranks.sum(result)

    def mini_batches(self, order: Sequence[int], size: int) -> Iterator["Experience"]:
        """The rows in `order`, `size` at a time."""
        for indices in torch.split(torch.tensor(order, device=self.tokens.device), size):
            yield self.rows(indices)

    def micro_batches(self, size: int | None, ranks: Ranks) -> list["Experience"]:
        """This rank's share of the rows, `size` of similar length at a time; as many micro-batches on every rank."""
        share = self.lengths.argsort(stable=True)[ranks.rank :: ranks.size]
        return [self.rows(indices) for indices in torch.split(share, size or len(share))]


_ENTRIES: Final = tuple(field.name for field in fields(Experience) if field.name not in ("tokens", "lengths"))


def build_experience(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    pad_token_id: int,
    device: torch.device,
) -> Experience:
    """Rollouts as tensors; what is not known yet is 0 (see `Experience.with_entries`)."""
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)])
    tokens = torch.full((len(prompts), int(lengths.max())), pad_token_id)
    mask = torch.zeros(len(prompts), tokens.shape[1] - 1, dtype=torch.bool)
    sample_logprobs = torch.zeros(mask.shape)
    for row, (prompt, response, values) in enumerate(zip(prompts, responses, logprobs, strict=True)):
        start, end = len(prompt) - 1, len(prompt) - 1 + len(response)
        tokens[row, : end + 1] = torch.tensor([*prompt, *response])
        mask[row, start:end] = True
        sample_logprobs[row, start:end] = torch.tensor(values)
    sample_logprobs = sample_logprobs.to(device)
    unknown = dict.fromkeys(set(_ENTRIES) - {"mask", "sample_logprobs"}, torch.zeros_like(sample_logprobs))
    known = {"mask": mask.to(device), "sample_logprobs": sample_logprobs, "old_logprobs": sample_logprobs}
    return Experience(tokens.to(device), lengths.to(device), **{**unknown, **known})
