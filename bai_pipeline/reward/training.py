"""Training of a Bradley-Terry reward model."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
    set_seed,
)

from bai_pipeline.errors import TrainingError
from bai_pipeline.loading import LANGUAGE_HEAD, SCORE_HEAD, load_model, load_tokenizer, saved_dtype
from bai_pipeline.progress import Reporter
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.reward.model import at_last_token, raw_token_scores
from bai_pipeline.reward.pairs import Pair, PairCollator, Pairs, bradley_terry_loss, hold_back, read_pairs
from bai_pipeline.settings import TrainingSettings
from bai_pipeline.sft.trainer import DeepSpeedConfig, run_training, training_arguments


def train_reward_model(
    init: Path,
    preferences: Path,
    out: Path,
    training: TrainingSettings,
    seed: int,
    report: Reporter,
    *,
    deepspeed: DeepSpeedConfig | None = None,
) -> dict[str, float | int | str]:
    """Train a reward model from a causal LM; its score head starts random.

    The scores of held-back pairs then have mean 0 and standard deviation 1 (score_shift and score_scale in the config).
    Trains in float32 (or what the DeepSpeed configuration says) and saves in the dtype of `init`.

    Args:
        init: checkpoint directory of a causal LM with tokenizer and chat template.
        preferences: table {prompt, chosen, rejected}.
        out: existing empty directory.
        deepspeed: see `training_arguments`.

    Raises:
        CheckpointError: no chat template, no padding token of its own, or tensors that are not exactly the model's.
        DataError: the table breaks its schema, holds too long an example or fewer than 8 pairs.
        TrainingError: the settings do not fit the data, or losses or scores are degenerate.
    """
    if training.aux_loss_coef:
        raise TrainingError(
            f"a reward model is trained without router loss, got aux_loss_coef {training.aux_loss_coef}; set it to 0"
        )
    with quiet_transformers(), tempfile.TemporaryDirectory() as work:
        tokenizer = load_tokenizer(init)
        pairs = read_pairs(preferences, tokenizer, training.max_length)
        train_pairs, test_pairs = hold_back(pairs, seed)
        arguments = training_arguments(training, len(train_pairs), seed, Path(work), deepspeed)
        set_seed(seed)
        model = load_model(
            AutoModelForSequenceClassification,
            init,
            missing={SCORE_HEAD},
            unexpected={LANGUAGE_HEAD},
            num_labels=1,
            dtype=torch.float32,
        )
        model.config.pad_token_id = tokenizer.pad_token_id
        collate = PairCollator(int(tokenizer.pad_token_id))
        finished = run_training(RewardTrainer, model, Pairs(train_pairs), collate, arguments, report)
        chosen, rejected = _pair_scores(model, test_pairs, collate, training.batch_size)
        shift, scale = normalisation(torch.cat([chosen, rejected]))
        model.config.score_shift, model.config.score_scale = shift, scale
        finished.save(out, tokenizer, saved_dtype(init))
    return {
        "pairs": len(pairs),
        "held_back_pairs": len(test_pairs),
        "held_back_accuracy": float((chosen > rejected).double().mean()),
        "steps": training.steps,
        "first_loss": finished.first_loss,
        "final_loss": finished.final_loss,
        "score_shift": shift,
        "score_scale": scale,
    }


class RewardTrainer(Trainer):
    """A Trainer whose batches are those of `PairCollator`."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The Bradley-Terry loss; goes through the model's own forward, so that wrappers of it see every call."""
        outputs = model(**inputs, use_cache=False)
        loss = bradley_terry_loss(outputs.logits.squeeze(-1).float())
        return (loss, outputs) if return_outputs else loss


def normalisation(scores: Tensor) -> tuple[float, float]:
    """The shift and scale after which `scores` have mean 0 and standard deviation 1 (of these very scores).

    Raises:
        TrainingError: the scores are not finite, or all the same.
    """
    shift, scale = float(scores.double().mean()), float(scores.double().std(correction=0))
    if not scores.isfinite().all() or scale == 0:
        raise TrainingError(
            f"expected finite scores that differ, got mean {shift} and standard deviation {scale}; no reward model was "
            "written"
        )
    return shift, scale


@torch.no_grad()
def _pair_scores(
    model: PreTrainedModel, pairs: Sequence[Pair], collate: PairCollator, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Raw scores of the chosen and of the rejected conversations, each (number of pairs,)."""
    model.eval()  # type: ignore[no-untyped-call]
    chosen, rejected = [], []
    for start in range(0, len(pairs), batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in collate(pairs[start : start + batch_size]).items()}
        scores = raw_token_scores(model, batch["input_ids"], batch["attention_mask"])
        good, bad = at_last_token(scores, batch["attention_mask"]).cpu().chunk(2)
        chosen.append(good)
        rejected.append(bad)
    return torch.cat(chosen), torch.cat(rejected)
