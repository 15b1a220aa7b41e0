"""Log-likelihoods of continuations under a causal LM, with what their contexts share computed once.

N requests, U different inputs, R rows of a batch, L tokens. Importing this module imports torch.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bai_pipeline.evals.engines.interface import Likelihood

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Context and continuation, neither empty."""

WORTH_CACHING = 16
"""Tokens of a shared beginning below which each row computes its own."""

_CHANGED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Fields of configs whose models do more after the head than nothing."""


@dataclass
class _Input:
    """What the model reads for one or several requests: a context and all but the last token of a continuation."""

    tokens: tuple[int, ...]
    requests: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    """(number of the request, its continuation); options of one token share the whole input."""


def continuation_likelihoods(
    model: PreTrainedModel, pairs: Sequence[TokenPair], *, batch_size: int, positions: int
) -> Iterator[list[tuple[int, Likelihood]]]:
    """Likelihoods batch by batch, each with its request's number.

    Inputs that begin alike (the worked examples of a subject) form a group: their common beginning goes through the
    model once, and its keys and values are read by every batch of the group. The head is applied where a
    continuation's token is predicted, and nowhere else.

    Args:
        pairs: (N,).
        batch_size: R at most.
        positions: longest input; longer ones lose tokens on the left.
    """
    inputs = _inputs(pairs, positions)
    with torch.inference_mode():
        for group in _groups(inputs):
            shared = _shared_length(group)
            prefix = _prefix(model, group[0].tokens[:shared]) if shared >= WORTH_CACHING and len(group) > 1 else None
            start = shared if prefix is not None else 0
            ordered = sorted(group, key=lambda item: -len(item.tokens))
            for first in range(0, len(ordered), batch_size):
                batch = ordered[first : first + batch_size]
                yield list(_score(batch, _logprobs(model, batch, start, prefix)))


def _inputs(pairs: Sequence[TokenPair], positions: int) -> list[_Input]:
    """The different inputs in lexicographic order, so that those which begin alike are neighbours."""
    found: dict[tuple[int, ...], _Input] = {}
    for number, (context, continuation) in enumerate(pairs):
        tokens = tuple([*context, *continuation[:-1]][-positions:])
        found.setdefault(tokens, _Input(tokens)).requests.append((number, continuation))
    return [found[tokens] for tokens in sorted(found)]


def _groups(inputs: Sequence[_Input]) -> Iterator[list[_Input]]:
    """Split sorted inputs where going on would cost more than beginning anew.

    With k inputs that share p tokens, one more that shares only q of them makes the others compute (k − 1)(p − q)
    tokens that they shared, and saves its own first q.
    """
    group: list[_Input] = []
    shared = 0
    for item in inputs:
        common = _common(group[-1].tokens[:shared], item.tokens) if group else 0
        if group and (len(group) - 1) * (shared - common) >= max(common, 1):
            yield group
            group = []
        group.append(item)
        shared = common if len(group) > 1 else len(item.tokens)
    if group:
        yield group


def _shared_length(group: Sequence[_Input]) -> int:
    """Tokens that all inputs of a sorted group begin with; each keeps as many as its continuations are predicted at."""
    predicted = max(len(continuation) for item in group for _, continuation in item.requests)
    shortest = min(len(item.tokens) for item in group)
    return max(0, min(_common(group[0].tokens, group[-1].tokens), shortest - predicted))


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _prefix(model: PreTrainedModel, tokens: Sequence[int]) -> Any:
    """Keys and values of a shared beginning, for one row."""
    return _backbone(model)(input_ids=torch.tensor([list(tokens)], device=model.device), use_cache=True).past_key_values


def _logprobs(model: PreTrainedModel, batch: Sequence[_Input], start: int, prefix: Any) -> list[Tensor]:
    """For each input log-probabilities (tokens, V), where `tokens` is the length of its longest continuation.

    Rows are padded on the right: a causal model's earlier positions do not see it.
    """
    rows = [item.tokens[start:] for item in batch]
    width = max(map(len, rows))
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    for row, tokens in enumerate(rows):
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
    options: dict[str, Any] = {"input_ids": input_ids.to(model.device), "use_cache": prefix is not None}
    if prefix is not None:
        cache = deepcopy(prefix)
        cache.batch_repeat_interleave(len(rows))
        options["past_key_values"] = cache
        options["position_ids"] = torch.arange(start, start + width, device=model.device)[None].expand(len(rows), -1)
    predicted = [max(len(continuation) for _, continuation in item.requests) for item in batch]
    places = [(row, place) for row, count in enumerate(predicted) for place in _last(len(rows[row]), count)]
    row_index, place_index = (torch.tensor(index, device=model.device) for index in zip(*places, strict=True))
    if any(getattr(model.config, name, None) is not None for name in _CHANGED_LOGITS):
        logits = model(**options).logits[row_index, place_index]
    else:
        hidden = _backbone(model)(**options).last_hidden_state[row_index, place_index]
        logits = _head(model)(hidden)
    return list(torch.split(torch.log_softmax(logits.float(), dim=-1), predicted))


def _last(length: int, count: int) -> range:
    return range(length - count, length)


def _backbone(model: PreTrainedModel) -> Any:
    return model.base_model


def _head(model: Any) -> Any:
    return model.get_output_embeddings()


def _score(batch: Sequence[_Input], logprobs: Sequence[Tensor]) -> Iterator[tuple[int, Likelihood]]:
    for item, table in zip(batch, logprobs, strict=True):
        for number, continuation in item.requests:
            tokens = torch.tensor(continuation, device=table.device)
            own = table[-len(continuation) :]
            chosen = own.gather(1, tokens[:, None])[:, 0]
            yield number, Likelihood(float(chosen.sum()), bool((own.argmax(dim=1) == tokens).all()))
