"""The prompts of a run, and which of them a step uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from bai_pipeline.errors import DataError
from bai_pipeline.ppo.randomness import permutation
from bai_pipeline.reward.verifiers import VERIFIERS
from bai_pipeline.tables import Row, read_table

Message = dict[str, str]


@dataclass(frozen=True)
class Prompt:
    """A row of the prompts table, tokenized."""

    id: str
    messages: Sequence[Message]
    answer: str | None
    verifier: str | None
    tokens: list[int]
    """The chat template with the generation prompt."""

    def is_correct(self, response: str) -> bool | None:
        """The verifier's word on a response; None without a verifier."""
        if self.verifier is None or self.answer is None:
            return None
        return VERIFIERS[self.verifier].is_correct(response, self.answer)


class PromptTable:
    """All prompts of a run, in a new random order each epoch."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        self._prompts = prompts
        self._seed = seed
        self._order: tuple[int, list[int]] | None = None

    @property
    def has_answers(self) -> bool:
        """True if the correctness of any response can be told."""
        return any(prompt.verifier is not None for prompt in self._prompts)

    def batch(self, step: int, size: int) -> list[Prompt]:
        """Prompts number step * size … (step + 1) * size of the endless sequence of epochs.

        Within an epoch every prompt comes once; the sequence depends on the seed only, not on `size`.
        """
        chosen = []
        for position in range(step * size, (step + 1) * size):
            epoch, offset = divmod(position, len(self._prompts))
            chosen.append(self._prompts[self._epoch(epoch)[offset]])
        return chosen

    def first(self, count: int) -> list[Prompt]:
        """The first prompts of the table, as it was written."""
        return list(self._prompts[:count])

    def _epoch(self, epoch: int) -> list[int]:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(len(self._prompts), self._seed, epoch, "prompts"))
        return self._order[1]


def load_prompts(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, max_prompt_tokens: int, seed: int, verified: bool = False
) -> PromptTable:
    """Read a prompts table `{id, messages, answer?, verifier?}`.

    Args:
        verified: the reward is the verifier's, so every prompt must name one.

    Raises:
        DataError: the table breaks its schema, a prompt is longer than `max_prompt_tokens`, a verifier is unknown or
            absent where it is needed, or an answer can never be right.
    """
    prompts = []
    for row in read_table("prompts", path):
        prompt = _tokenized(row, tokenizer)
        if len(prompt.tokens) > max_prompt_tokens:
            raise DataError(
                f"{path}: prompt {prompt.id!r} has {len(prompt.tokens)} tokens, max_prompt_tokens is "
                f"{max_prompt_tokens}; shorten it or raise the limit"
            )
        if prompt.verifier is not None and prompt.verifier not in VERIFIERS:
            raise DataError(
                f"{path}: prompt {prompt.id!r} names verifier {prompt.verifier!r}; known are {', '.join(VERIFIERS)}"
            )
        if verified and prompt.verifier is None:
            raise DataError(
                f"{path}: a reward of kind verifier needs every prompt to name one, prompt {prompt.id!r} names none; "
                f"known are {', '.join(VERIFIERS)}"
            )
        if prompt.verifier is not None and not VERIFIERS[prompt.verifier].accepts(prompt.answer or ""):
            raise DataError(
                f"{path}: no response to prompt {prompt.id!r} can be right: verifier {prompt.verifier!r} expects "
                f"{VERIFIERS[prompt.verifier].expects} as answer, got {prompt.answer!r}"
            )
        prompts.append(prompt)
    return PromptTable(prompts, seed)


def _tokenized(row: Row, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    tokens = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_dict=False)
    return Prompt(row["id"], row["messages"], row.get("answer"), row.get("verifier"), cast(list[int], tokens))
