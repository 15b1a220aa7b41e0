"""What PPO asks of whoever samples: the same of the embedded engine and of vLLM.

B prompts of one step over all ranks, of which a rank samples some: `rows` says which.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    stop_token_ids: tuple[int, ...] = ()
    """Any of them ends a response and belongs to it."""


@dataclass(frozen=True)
class Rollout:
    """One response per prompt, in the order of the prompts."""

    tokens: list[list[int]]
    """Response tokens, the one that ended it included."""
    logprobs: list[list[float]]
    """Log-probability of each token under softmax(logits / temperature), whatever top_p and top_k cut off; of a greedy
    response under temperature 1."""
    finish_reasons: list[FinishReason]
    """`stop` after a stop token, `length` when `max_new_tokens` cut the response."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response."""
        return [len(row) for row in self.tokens]


Weights = Iterable[tuple[str, Tensor]]
"""The policy's parameters, whole, by their names in transformers' checkpoint or module. Under ZeRO 3 each step of the
iteration gathers from all ranks: every rank has to go through all of it."""


class RolloutEngine(Protocol):
    """Samples from the policy as it was when `synchronize` was last called."""

    def synchronize(self, weights: Weights) -> None:
        """Take over the present weights of the policy."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, rows: Sequence[int], total: int
    ) -> Rollout:
        """One response per prompt.

        Args:
            prompts: token ids, (len(rows),) rows of any length.
            seed: of this step. A response depends on it and on the row's number, not on which other rows are asked for.
            rows: the number of each prompt among the `total` prompts of the step.
        """

    def close(self) -> None:
        """Give back memory and processes."""
