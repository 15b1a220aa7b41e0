"""Reward models: `…ForSequenceClassification` directories with one label, and the normalisation that they carry.

A reward model's head is `score` (hidden_size -> 1). Its raw output is shifted and scaled by two numbers in its
config, `score_shift` and `score_scale` (0 and 1 when absent), so that a reward model and the critic that starts from
it speak of the same scores.

Shapes: B sequences, T tokens.
"""

import json
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, OlmoeConfig, OlmoePreTrainedModel, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification

from bai_pipeline.errors import CheckpointError
from bai_pipeline.loading import load_model


class OlmoeForSequenceClassification(  # type: ignore[no-untyped-call]
    GenericForSequenceClassification, OlmoePreTrainedModel
):
    """OLMoE with a score head, which transformers does not ship.

    transformers reads the source of a class's module to decide whether its experts may run as grouped matrix products,
    and holds classes outside its own files to the slow eager loop: here OLMoE's own module decides.
    """

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return OlmoePreTrainedModel._can_set_experts_implementation()


# exist_ok: without it transformers silently ignores a registration for one of its own config classes.
AutoModelForSequenceClassification.register(OlmoeConfig, OlmoeForSequenceClassification, exist_ok=True)


def check_reward_config(path: Path) -> None:
    """Check that a directory's config is that of a reward model, without loading weights.

    Raises:
        CheckpointError: not a …ForSequenceClassification with one label, or a score_scale that is not positive, or
            a score_shift that is not finite.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"expected a reward model directory, found no config.json in {path}")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    labels = len(config.get("id2label") or ("LABEL_0", "LABEL_1"))  # transformers leaves its default of 2 out
    if labels != 1 or not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise CheckpointError(
            f"expected a …ForSequenceClassification checkpoint with 1 label, got {', '.join(architectures) or 'none'} "
            f"with {labels} in {config_file}"
        )
    scale, shift = config.get("score_scale", 1.0), config.get("score_shift", 0.0)
    if not (_is_finite(scale) and scale > 0):
        raise CheckpointError(f"expected a score_scale above 0, got {scale!r} in {config_file}")
    if not _is_finite(shift):
        raise CheckpointError(f"expected a finite number as score_shift, got {shift!r} in {config_file}")


def load_reward_model(path: Path) -> PreTrainedModel:
    """The reward model (or critic) saved at `path`, in evaluation mode and in the dtype it was saved in.

    Raises:
        CheckpointError: `path` is not a sequence classification checkpoint with one label and a `score` head, or its
            tensors are not exactly the model's.
    """
    check_reward_config(path)
    model = load_model(AutoModelForSequenceClassification, path)
    if not hasattr(model, "score"):
        raise CheckpointError(f"expected a head named score, {type(model).__name__} in {path} has none")
    model.eval()  # type: ignore[no-untyped-call]
    return model


def raw_token_scores(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, **reading: Any
) -> Tensor:
    """The head's output at every token, in float32: (B, T)."""
    outputs = model.base_model(input_ids=input_ids, attention_mask=attention_mask, **{"use_cache": False, **reading})
    head = cast(nn.Linear, model.score)
    return cast(Tensor, head(outputs.last_hidden_state)).squeeze(-1).float()


def at_last_token(values: Tensor, attention_mask: Tensor) -> Tensor:
    """The entry of `values` (B, T) at the last attended token of each row: (B,)."""
    positions = torch.arange(values.shape[1], device=values.device) * attention_mask  # (B, T)
    return values.gather(1, positions.argmax(1, keepdim=True)).squeeze(1)


def token_scores(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None, **reading: Any
) -> Tensor:
    """Normalised score of every prefix, (raw - score_shift) / score_scale.

    The entry at a response's last token is the response's score; as a critic, the entry at token t is the value of
    the state after t. Entries on padding are meaningless.

    Args:
        input_ids, attention_mask: (B, T); padding on either side. None: all tokens are attended to.
        reading: the rest of what `loading.unpadded` gives.

    Returns:
        (B, T), float32.
    """
    shift = float(getattr(model.config, "score_shift", 0.0))
    scale = float(getattr(model.config, "score_scale", 1.0))
    return (raw_token_scores(model, input_ids, attention_mask, **reading) - shift) / scale


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
