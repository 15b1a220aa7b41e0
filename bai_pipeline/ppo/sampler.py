"""Batched sampling from a causal LM, with the log-probability of every sampled token.

B prompts, R rows still in the batch, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bai_pipeline.errors import CheckpointError, DataError
from bai_pipeline.ppo.decoders import Decoder, build_decoder

FinishReason = Literal["stop", "length"]

DROP_SHARE = 8
"""Finished rows leave the batch once they are one in this many: each removal copies the cache."""


@dataclass(frozen=True)
class Rollout:
    """One response per prompt, in the order of the prompts."""

    tokens: list[list[int]]
    """Response tokens, the end-of-sequence token included."""
    logprobs: list[list[float]]
    """Log-probability of each token under the distribution it was drawn from (see `sample`)."""
    finish_reasons: list[FinishReason]
    """`stop` after an end-of-sequence token, `length` when `max_new_tokens` cut the response."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response."""
        return [len(row) for row in self.tokens]


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a response: those of the generation config and the tokenizer's end-of-sequence token.

    Raises:
        CheckpointError: neither names one.
    """
    configured = getattr(model.generation_config, "eos_token_id", None)
    found = {configured} if isinstance(configured, int) else set(configured or ())
    found |= {tokenizer.eos_token_id} - {None}
    if not found:
        raise CheckpointError(
            f"neither the generation config nor the tokenizer of {tokenizer.name_or_path} names an end-of-sequence "
            "token"
        )
    return sorted(found)


def response_texts(rollout: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The responses as text: only the token that ended them is left out, markers such as <think> stay."""
    ended = zip(rollout.tokens, rollout.finish_reasons, strict=True)
    bare = [tokens[:-1] if reason == "stop" else tokens for tokens, reason in ended]
    return [str(tokenizer.decode(tokens, skip_special_tokens=False)) for tokens in bare]


def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    *,
    eos_token_id: int | Sequence[int],
    pad_token_id: int,
    generator: torch.Generator | None = None,
    decoder: Decoder | None = None,
) -> Rollout:
    """Sample one response to each prompt, all in one batch.

    A token is drawn from softmax(logits / temperature) cut to its nucleus (top_p), and its log-probability is that of
    exactly this distribution: with temperature 1 and top_p 1 it is the policy's own. Temperature 0 takes the most
    probable token and gives its log-probability under the policy (temperature 1).

    Row i at step t uses the (t B + i)-th number of the generator, whatever the other rows did.

    Args:
        model: a Hugging Face causal LM; its weights are read at the call, its mode (train, eval) is left as it was.
        prompts: token ids of B non-empty prompts.
        eos_token_id: token or tokens that end a response.
        pad_token_id: fills the left of shorter prompts; its embedding has no effect.
        generator: source of randomness, on the CPU; required unless temperature is 0.
        decoder: how to run the model; default `build_decoder`'s choice.

    Raises:
        DataError: an empty prompt, prompt and response that exceed the model's positions, or no generator.
    """
    _check(model, prompts, max_new_tokens, temperature, generator)
    if not prompts:
        return Rollout([], [], [])
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            if decoder is None:
                decoder = build_decoder(model, max(map(len, prompts)) + max_new_tokens)
            stop = torch.tensor([eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id))
            return _sample(decoder, prompts, max_new_tokens, temperature, top_p, stop, pad_token_id, generator)
    finally:
        model.train(was_training)


def _sample(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop: Tensor,
    pad_token_id: int,
    generator: torch.Generator | None,
) -> Rollout:
    count = len(prompts)
    tokens = torch.full((count, max_new_tokens), pad_token_id)  # (B, max_new_tokens)
    logprobs = torch.zeros(count, max_new_tokens)
    lengths = torch.full((count,), max_new_tokens)
    stopped = torch.zeros(count, dtype=torch.bool)
    rows = torch.arange(count)  # (R,), the prompt of each row of the batch
    logits = decoder.prefill(*_pad_left(prompts, pad_token_id))  # (R, V)
    for step in range(max_new_tokens):
        if temperature == 0:
            distribution = logits.log_softmax(-1)
            chosen = distribution.argmax(-1)
        else:
            distribution = sampling_logprobs(logits, temperature, top_p)
            uniform = torch.rand(count, generator=generator, dtype=torch.float64)[rows]
            chosen = draw(distribution, uniform)
        tokens[rows, step] = chosen
        logprobs[rows, step] = distribution.gather(1, chosen[:, None])[:, 0]
        ended = torch.isin(chosen, stop) & ~stopped[rows]
        lengths[rows[ended]] = step + 1
        stopped[rows[ended]] = True
        alive = ~stopped[rows]
        finished = len(rows) - int(alive.sum())
        if finished == len(rows) or step + 1 == max_new_tokens:
            break
        if finished * DROP_SHARE >= len(rows):
            kept = alive.nonzero()[:, 0]
            decoder.keep(kept)
            rows, chosen = rows[kept], chosen[kept]
        logits = decoder.step(chosen)
    ends = lengths.tolist()
    return Rollout(
        tokens=[row[:end] for row, end in zip(tokens.tolist(), ends, strict=True)],
        logprobs=[row[:end] for row, end in zip(logprobs.tolist(), ends, strict=True)],
        finish_reasons=["stop" if flag else "length" for flag in stopped.tolist()],
    )


def sampling_logprobs(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Log-probabilities (R, V) of the tempered and nucleus-cut distribution, -inf outside the nucleus.

    The nucleus is the smallest set of most probable tokens whose probability reaches top_p (Holtzman et al. 2020,
    arXiv:1904.09751); the rest is renormalised.
    """
    logprobs = (logits / temperature).log_softmax(-1)
    if top_p >= 1:
        return logprobs
    ordered, order = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()  # probability of all that are more probable
    outside = (before >= top_p).scatter(-1, order, before >= top_p)
    return logprobs.masked_fill(outside, -torch.inf).log_softmax(-1)


def draw(logprobs: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (R,) by inversion: the first whose cumulative probability exceeds `uniform` (R,) in [0, 1).

    In float64 `uniform * total < total` holds for every total, so a token of probability 0 is never drawn.
    """
    cumulative = logprobs.double().exp().cumsum(-1)  # (R, V)
    targets = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, targets, right=True)[:, 0]


def _pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both (B, longest prompt)."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_token_id)
    valid = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        valid[row, width - len(prompt) :] = True
    return input_ids, valid


def _check(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> None:
    if temperature != 0 and generator is None:
        raise DataError(f"sampling at temperature {temperature} needs a generator; got none")
    limit = getattr(model.config, "max_position_embeddings", None)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {index} has no tokens; nothing was sampled")
        if limit is not None and len(prompt) + max_new_tokens > limit:
            raise DataError(
                f"prompt {index} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}: together more than "
                f"the model's {limit} positions; nothing was sampled"
            )
