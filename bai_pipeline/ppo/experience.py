"""What a rollout batch becomes for training: tensors, padded on the right.

B sequences of prompt and response, L tokens of the longest, T = L − 1. Entry t of a (B, T) tensor speaks about token
t + 1: its log-probability comes from the logits at t, and the value of the state before it is the critic's output at t.
Under a causal model the padding on the right is seen by no token, so no attention mask is needed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Experience:
    """A rollout batch, or some rows of it."""

    tokens: Tensor
    """(B, L)"""
    mask: Tensor
    """(B, T), True where token t + 1 belongs to the response."""
    lengths: Tensor
    """(B,), tokens of prompt and response."""
    sample_logprobs: Tensor
    """(B, T), under the distribution that was sampled from."""
    values: Tensor
    """(B, T), by the critic before the update."""
    advantages: Tensor
    """(B, T)"""
    returns: Tensor
    """(B, T)"""

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
        return Experience(
            tokens=self.tokens[indices, :longest],
            mask=self.mask[indices, : longest - 1],
            lengths=lengths,
            sample_logprobs=self.sample_logprobs[indices, : longest - 1],
            values=self.values[indices, : longest - 1],
            advantages=self.advantages[indices, : longest - 1],
            returns=self.returns[indices, : longest - 1],
        )

    def with_estimates(self, values: Tensor, advantages: Tensor, returns: Tensor) -> "Experience":
        """The same rollouts with what the critic and the scores say about them."""
        return replace(self, values=values, advantages=advantages, returns=returns)

    def compute(self, function: Callable[["Experience"], Tensor], chunk: int) -> Tensor:
        """`function` of all rows, `chunk` rows of similar length at a time: (B, T), 0 beyond a chunk's longest row."""
        result = torch.zeros_like(self.sample_logprobs)
        with torch.no_grad():
            for indices in torch.split(self.lengths.argsort(stable=True), chunk):
                part = self.rows(indices)
                result[indices, : part.mask.shape[1]] = function(part)
        return result

    def mini_batches(self, order: Sequence[int], size: int) -> Iterator["Experience"]:
        """The rows in `order`, `size` at a time."""
        for indices in torch.split(torch.tensor(order, device=self.tokens.device), size):
            yield self.rows(indices)


def build_experience(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    pad_token_id: int,
    device: torch.device,
) -> Experience:
    """Rollouts as tensors; values, advantages and returns are 0 until `with_estimates`."""
    lengths = torch.tensor([len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)])
    tokens = torch.full((len(prompts), int(lengths.max())), pad_token_id)
    mask = torch.zeros(len(prompts), tokens.shape[1] - 1, dtype=torch.bool)
    sample_logprobs = torch.zeros(mask.shape)
    for row, (prompt, response, values) in enumerate(zip(prompts, responses, logprobs, strict=True)):
        start, end = len(prompt) - 1, len(prompt) - 1 + len(response)
        tokens[row, : end + 1] = torch.tensor([*prompt, *response])
        mask[row, start:end] = True
        sample_logprobs[row, start:end] = torch.tensor(values)
    empty = torch.zeros_like(sample_logprobs, device=device)
    return Experience(
        tokens.to(device), mask.to(device), lengths.to(device), sample_logprobs.to(device), empty, empty, empty
    )
