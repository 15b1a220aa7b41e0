"""What a rollout batch becomes for training: tensors, padded on the right.

B sequences of prompt and response, L tokens of the longest, T = L − 1. Entry t of a (B, T) tensor speaks about token
t + 1: its log-probability comes from the logits at t, and the value of the state before it is the critic's output at t.
Models read the rows without their padding (see `loading.unpadded`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from bai_pipeline.loading.unpadded import unpadded
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

    def reading(self) -> dict[str, Any]:
        """What a model is called with: N tokens, `inputs` without padding."""
        return unpadded(self.inputs, (self.lengths - 1).tolist())

    def responding(self) -> Tensor:
        """(1, N): True where a model that reads `reading` speaks about a token of a response."""
        return self.mask[self.real][None]

    def of_reading(self, values: Tensor) -> Tensor:
        """What a model said, (1, N) -> (B, T), 0 on padding; the gradient flows through it."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.real, values)

    def of_responses(self, values: Tensor) -> Tensor:
        """Values of the tokens of all responses, row by row -> (B, T), 0 elsewhere; the gradient flows through it."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)

    def rows(self, indices: Tensor) -> "Experience":
        """The given rows, trimmed to the longest of them."""
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        entries = {name: getattr(self, name)[indices, : longest - 1] for name in _ENTRIES}
        return Experience(self.tokens[indices, :longest], lengths, **entries)

    def with_entries(self, **entries: Tensor) -> "Experience":
        """The same rollouts with what is known of their tokens by now."""
        return replace(self, **entries)

    def compute(self, function: Callable[["Experience"], Tensor], chunk: int | None, ranks: Ranks) -> Tensor:
        """`function` of all rows: (B, T), 0 beyond a part's longest row.

        The ranks share the rows; each takes about `chunk` at a time (see `micro_batches`).
        """
        result = torch.zeros_like(self.sample_logprobs)
        with torch.no_grad():
            for indices in self._parts(chunk, ranks):
                part = self.rows(indices)
                result[indices, : part.mask.shape[1]] = function(part)
        return ranks.sum(result)

    def mini_batches(self, order: Sequence[int], size: int) -> Iterator["Experience"]:
        """The rows in `order`, `size` at a time."""
        for indices in torch.split(torch.tensor(order, device=self.tokens.device), size):
            yield self.rows(indices)

    def micro_batches(self, size: int | None, ranks: Ranks) -> list["Experience"]:
        """This rank's share of the rows in few micro-batches: none has more tokens than `size` rows of the longest.

        Every rank has as many, which all ranks know because all hold the whole batch. None: one micro-batch.
        """
        return [self.rows(indices) for indices in self._parts(size, ranks)]

    def _parts(self, size: int | None, ranks: Ranks) -> list[Tensor]:
        """Rows of this rank's micro-batches; each is of short and long rows, so that they differ little in tokens."""
        lengths = self.lengths.tolist()
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        count, limit = 1, (size or len(order)) * max(lengths)
        while any(
            sum(lengths[row] for row in order[first :: ranks.size * count]) > limit
            for first in range(ranks.size * count)
        ):
            count += 1
        own = order[ranks.rank :: ranks.size]
        return [torch.tensor(own[part::count], device=self.tokens.device) for part in range(count)]


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
