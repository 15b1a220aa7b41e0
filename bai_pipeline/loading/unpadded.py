"""Models that read sequences of several lengths one behind the other, without padding.

Everything but attention treats tokens one by one, so N tokens of any number of sequences are one row (1, N) of the
model. Attention goes through the sequences: what transformers does with flash attention's variable-length kernels, here
for every device and dtype. A family whose layers see more than attention does (a sliding window) gets transformers'
own masks: as exact, without the gain.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from bai_pipeline.errors import CheckpointError

ATTENTION: Final = "unpadded_sdpa"
"""Scaled dot-product attention; of the sequences one by one where it is told `sequence_lengths`."""


def read_unpadded(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model take `unpadded` sequences; it takes others as before.

    Raises:
        CheckpointError: tokens of its family see others by more than transformers' attention functions.
    """
    if getattr(model, "_is_stateful", False) or not getattr(model, "_supports_attention_backend", False):
        raise CheckpointError(f"{type(model).__name__} cannot read sequences one behind the other, as PPO does")
    model.set_attn_implementation(ATTENTION)
    return model


def unpadded(tokens: Tensor, lengths: Sequence[int]) -> dict[str, Any]:
    """What a model is called with, beside what it is to return.

    Args:
        tokens: (B, T), padded on the right.
        lengths: of the sequences. Neighbours of equal length are attended to together.

    Returns:
        `input_ids` and `position_ids` (1, N) with N = Σ lengths, and `sequence_lengths`.
    """
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    real = positions < torch.tensor(lengths, device=tokens.device)[:, None]
    return {
        "input_ids": tokens[real][None],
        "position_ids": positions[real][None],
        "sequence_lengths": tuple(lengths),
        "use_cache": False,
    }


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    sequence_lengths: tuple[int, ...] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Queries, keys and values (B, heads, T, D) -> (B, T, heads, D)."""
    if attention_mask is not None or sequence_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    runs = [(length, len(list(run))) for length, run in groupby(sequence_lengths)]
    sizes = [length * count for length, count in runs]
    parts = []
    states = (torch.split(state.transpose(1, 2), sizes, 1) for state in (query, key, value))
    for (length, count), *run in zip(runs, *states, strict=True):
        q, k, v = (state.reshape(count, length, *state.shape[2:]).transpose(1, 2) for state in run)
        output, _ = sdpa_attention_forward(module, q, k, v, None, **options)
        parts.append(output.reshape(1, count * length, *output.shape[2:]))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0], None


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """None where causality is all there is: `_attention` sees to that, and to sequences."""
    whole = options["q_length"] == options["kv_length"]
    if whole and options.get("attention_mask") is None and options.get("local_size") is None:
        return None
    return sdpa_mask(*arguments, **options)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
