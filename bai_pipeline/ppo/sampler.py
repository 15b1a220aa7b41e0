"""Batched sampling from a causal LM, with the log-probability of every sampled token.

B prompts of a call, R rows in the batch at a time, V vocabulary. Forward passes are in `decoders`, the choice of the
next token is in `drawing`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bai_pipeline.errors import CheckpointError, DataError
from bai_pipeline.ppo.decoders import Decoder, RefillingDecoder, build_decoder
from bai_pipeline.ppo.drawing import Uniforms, choose
from bai_pipeline.ppo.rollouts.interface import FinishReason, Rollout, Sampling

__all__ = ["FinishReason", "Rollout", "Sampling", "response_texts", "sample", "sample_responses", "stop_tokens"]

DROP_SHARE = 8
"""Finished rows leave the batch, or make room for waiting prompts, once they are one in this many: each time copies
cache or costs a forward pass."""


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
    """Sample one response to each prompt, all in one batch: `sample_responses` of all rows.

    Args:
        eos_token_id: token or tokens that end a response.
    """
    stop = (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)
    return sample_responses(
        model,
        prompts,
        Sampling(max_new_tokens, temperature, top_p, stop_token_ids=stop),
        generator=generator,
        rows=range(len(prompts)),
        total=len(prompts),
        pad_token_id=pad_token_id,
        decoder=decoder,
    )


def sample_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    generator: torch.Generator | None,
    rows: Sequence[int],
    total: int,
    slots: int | None = None,
    pad_token_id: int = 0,
    decoder: Decoder | None = None,
) -> Rollout:
    """Sample one response to each prompt.

    A token is drawn from softmax(logits / temperature) cut to the top_k most probable tokens and then to the nucleus of
    these; its log-probability is that of the uncut distribution. Temperature 0 takes the most probable token, with its
    log-probability under temperature 1.

    Token t of the response to row i uses the (t · total + i)-th number of the generator, whatever the other rows do.

    Args:
        model: a Hugging Face causal LM; its weights are read at the call, its mode (train, eval) is left as it was.
        prompts: token ids of B non-empty prompts.
        generator: source of randomness, on the CPU; required unless the temperature is 0.
        rows: (B,), the number of each prompt among `total`.
        slots: rows that are decoded at a time, others wait; None: all.
        pad_token_id: fills the left of shorter prompts; its embedding has no effect.
        decoder: how to run the model; default `build_decoder`'s choice.

    Raises:
        DataError: an empty prompt, prompt and response that exceed the model's positions, rows that are not one a
            prompt below `total`, or no generator.
    """
    _check(model, prompts, sampling, generator, rows, total)
    if not prompts:
        return Rollout([], [], [])
    with _evaluation_mode(model), torch.inference_mode():
        return decode(
            decoder or build_decoder(model, max(map(len, prompts)) + sampling.max_new_tokens),
            prompts,
            sampling,
            _uniforms(generator, sampling, total),
            torch.tensor(rows),
            slots=slots or len(prompts),
            pad_token_id=pad_token_id,
        )


def decode(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    uniforms: Uniforms | None,
    rows: Tensor,
    *,
    slots: int,
    pad_token_id: int,
) -> Rollout:
    """The loop of `sample_responses`: at most `slots` rows at a time, freed ones refilled if the decoder can, else the
    next when all are finished.

    Args:
        rows: (B,), the number of each prompt in `uniforms`.
    """
    responses = _Responses(len(prompts), sampling)
    refilling = decoder if isinstance(decoder, RefillingDecoder) else None
    waiting = list(range(len(prompts)))
    while waiting:
        first, waiting = waiting[:slots], waiting[slots:]
        batch = _Batch(first)
        logits = decoder.prefill(*_pad_left([prompts[index] for index in first], pad_token_id))  # (R, V)
        while True:
            numbers = None if uniforms is None else uniforms(batch.ages, rows[batch.prompts])
            batch.last, logprobs = choose(logits, sampling, numbers)
            responses.add(batch, logprobs)
            finished = len(batch.alive) - int(batch.alive.sum())
            if finished == len(batch.alive):
                break
            if finished * DROP_SHARE >= len(batch.alive) or (refilling is not None and refilling.full):
                newcomers = [] if refilling is None else waiting[:finished]
                waiting = waiting[len(newcomers) :]
                staying = batch.staying(len(newcomers))
                if len(staying) < len(batch.alive):
                    decoder.keep(staying)
                    batch.keep(staying)
                if refilling is not None and newcomers:
                    begun = [prompts[index] for index in newcomers]
                    # The step below reads their last tokens.
                    refilling.admit(batch.finished, *_pad_left([prompt[:-1] for prompt in begun], pad_token_id))
                    batch.admit(newcomers, [prompt[-1] for prompt in begun])
            logits = decoder.step(batch.last)
    return responses.rollout()


class _Batch:
    """The rows that are decoded together. Finished ones go on, unread, until they are dropped or replaced."""

    def __init__(self, prompts: list[int]) -> None:
        self.prompts = torch.tensor(prompts)  # (R,), the prompt of each row
        self.ages = torch.zeros_like(self.prompts)  # (R,), tokens of its response
        self.last = torch.zeros_like(self.prompts)  # (R,), its newest token
        self.alive = torch.ones_like(self.prompts, dtype=torch.bool)  # (R,), False once it is finished

    @property
    def finished(self) -> Tensor:
        """Indices of the finished rows."""
        return (~self.alive).nonzero()[:, 0]

    def staying(self, replaced: int) -> Tensor:
        """Indices of the rows that are alive and of the first `replaced` of the others: the last of them in the places
        of those that leave, the others where they are.
        """
        stays = self.alive | ((~self.alive).cumsum(0) <= replaced)
        count = int(stays.sum())
        rows = torch.arange(count)
        rows[~stays[:count]] = stays[count:].nonzero()[:, 0] + count
        return rows

    def keep(self, rows: Tensor) -> None:
        self.prompts, self.ages = self.prompts[rows], self.ages[rows]
        self.last, self.alive = self.last[rows], self.alive[rows]

    def admit(self, prompts: list[int], last: list[int]) -> None:
        """Put new rows in the places of the finished ones."""
        places = self.finished
        self.prompts[places], self.last[places] = torch.tensor(prompts), torch.tensor(last)
        self.ages[places], self.alive[places] = 0, True


class _Responses:
    """What was sampled so far, a row for each prompt."""

    def __init__(self, count: int, sampling: Sampling) -> None:
        self._limit = sampling.max_new_tokens
        self._stop = torch.tensor(sampling.stop_token_ids, dtype=torch.long)
        # The last column takes what finished rows go on with.
        self._tokens = torch.zeros(count, self._limit + 1, dtype=torch.long)
        self._logprobs = torch.zeros(count, self._limit + 1)
        self._lengths = torch.full((count,), self._limit)
        self._stopped = torch.zeros(count, dtype=torch.bool)

    def add(self, batch: _Batch, logprobs: Tensor) -> None:
        """Append the newest token and its log-probability (R,) to each row; say which rows are finished by it."""
        self._tokens[batch.prompts, batch.ages] = batch.last
        self._logprobs[batch.prompts, batch.ages] = logprobs
        batch.ages = (batch.ages + 1).clamp_(max=self._limit)
        stopped = torch.isin(batch.last, self._stop) & batch.alive
        if stopped.any():
            self._stopped[batch.prompts[stopped]] = True
            self._lengths[batch.prompts[stopped]] = batch.ages[stopped]
        batch.alive &= (batch.ages < self._limit) & ~stopped

    def rollout(self) -> Rollout:
        ends = self._lengths.tolist()
        return Rollout(
            tokens=[row[:end] for row, end in zip(self._tokens.tolist(), ends, strict=True)],
            logprobs=[row[:end] for row, end in zip(self._logprobs.tolist(), ends, strict=True)],
            finish_reasons=["stop" if flag else "length" for flag in self._stopped.tolist()],
        )


def _pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, both (B, longest prompt)."""
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_token_id)
    valid = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        valid[row, width - len(prompt) :] = True
    return input_ids, valid


def _uniforms(generator: torch.Generator | None, sampling: Sampling, total: int) -> Uniforms | None:
    if generator is None or sampling.temperature == 0:
        return None
    return Uniforms(generator, sampling.max_new_tokens, total)


@contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards each in its own: layers of a model in evaluation mode are in
    training mode where they checkpoint activations, which excludes a cache."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: torch.Generator | None,
    rows: Sequence[int],
    total: int,
) -> None:
    if sampling.temperature != 0 and generator is None:
        raise DataError(f"sampling at temperature {sampling.temperature} needs a generator; got none")
    if len(rows) != len(prompts) or not all(0 <= row < total for row in rows):
        raise DataError(
            f"expected one row number below {total} for each of {len(prompts)} prompts, got {list(rows)}; nothing was "
            "sampled"
        )
    limit = getattr(model.config, "max_position_embeddings", None)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise DataError(f"prompt {index} has no tokens; nothing was sampled")
        if limit is not None and len(prompt) + sampling.max_new_tokens > limit:
            raise DataError(
                f"prompt {index} has {len(prompt)} tokens and max_new_tokens is {sampling.max_new_tokens}: together "
                f"more than the model's {limit} positions; nothing was sampled"
            )
