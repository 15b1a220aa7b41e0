"""transformers' Trainer as this package uses it: TrainingSettings in, progress to a Reporter, nothing printed.

No Trainer checkpoints are written: these trainings are short, and what they leave is a model directory.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bai_pipeline.errors import TrainingError
from bai_pipeline.progress import Reporter
from bai_pipeline.settings import TrainingSettings

LOGS = 100
"""Readings of the loss during a training."""
FINAL_READINGS = 10
"""The last readings that `train_loss` is the mean of."""
ADAM_BETA1 = 0.9
FINAL_LEARNING_RATE = 0.1
"""Share of the learning rate where the cosine decay ends."""


DeepSpeedConfig = Mapping[str, Any]
_DEEPSPEED = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
"""What the Trainer fills in."""


def training_arguments(
    training: TrainingSettings, examples: int, seed: int, work: Path, deepspeed: DeepSpeedConfig | None
) -> TrainingArguments:
    """The Trainer's arguments.

    With a DeepSpeed file this must be called before the model is loaded (ZeRO-3 partitions weights as they load).

    Args:
        examples: size of the data set.
        work: an existing directory that the Trainer may use; nothing is kept in it.
        deepspeed: DeepSpeed's configuration with the ZeRO stage; None: data parallelism without it.

    Raises:
        TrainingError: a batch that does not divide among the ranks, or is larger than the data set.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if training.batch_size % ranks:
        raise TrainingError(
            f"batch_size {training.batch_size} does not divide among {ranks} ranks; nothing was trained"
        )
    if examples < training.batch_size:
        raise TrainingError(
            f"expected at least batch_size = {training.batch_size} examples, got {examples}; nothing was trained"
        )
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=training.steps,
        per_device_train_batch_size=training.batch_size // ranks,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": FINAL_LEARNING_RATE},
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        adam_beta1=ADAM_BETA1,
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        seed=seed,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        logging_strategy="steps",
        logging_steps=max(1, training.steps // LOGS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        deepspeed=None if deepspeed is None else {**_DEEPSPEED, **deepspeed},
    )
    if deepspeed is not None:
        _join_process_group(arguments)
    return arguments


def _join_process_group(arguments: TrainingArguments) -> None:
    """Make the ranks known to DeepSpeed: ZeRO-3 needs them when it loads a model, before there is a Trainer."""
    from deepspeed import comm

    _ = arguments.device  # joins torch's process group
    comm.init_distributed(verbose=False)


def run_training(
    trainer: type[Trainer],
    model: PreTrainedModel,
    data: Dataset[Any],
    collate: Callable[[Any], dict[str, torch.Tensor]],
    arguments: TrainingArguments,
    report: Reporter,
) -> "FinishedTraining":
    """Train `model` and say what the loss was.

    Raises:
        TrainingError: the loss is not finite.
    """
    callback = ReporterCallback(report)
    use_cache = model.config.use_cache
    running = trainer(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[callback])
    running.remove_callback(PrinterCallback)
    running.train()
    model.config.use_cache = use_cache  # switched off by the Trainer
    final = callback.losses[-FINAL_READINGS:]
    return FinishedTraining(running, callback.losses[0], sum(final) / len(final))


class FinishedTraining:
    """A Trainer whose training is over."""

    def __init__(self, trainer: Trainer, first_loss: float, final_loss: float) -> None:
        self.trainer = trainer
        self.first_loss = first_loss
        self.final_loss = final_loss

    def save(self, out: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
        """Write model and tokenizer to the directory `out` in `dtype`; gathers weights that are spread over ranks."""
        accelerator = self.trainer.accelerator
        wrapped: Any = self.trainer.model_wrapped
        gathered = accelerator.get_state_dict(wrapped)  # on every rank; may be None on all but the first
        if self.trainer.is_world_process_zero():
            model = accelerator.unwrap_model(wrapped)
            model.to(dtype)  # what the saved config says
            model.save_pretrained(out, state_dict={name: tensor.to(dtype) for name, tensor in gathered.items()})
            tokenizer.save_pretrained(out)


class ReporterCallback(TrainerCallback):
    """Passes steps and readings on to a Reporter."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self.losses: list[float] = []

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Called by the Trainer every `logging_steps`, and once at the end with a summary that has no `loss`."""
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {state.global_step} of {state.max_steps}; no model was written"
            )
        self.losses.append(loss)
        if state.is_world_process_zero:
            self._report.progress(state.global_step, state.max_steps, loss=loss, learning_rate=logs["learning_rate"])


@contextmanager
def router_loss(model: PreTrainedModel, coefficient: float) -> Iterator[None]:
    """Add `coefficient` x the router's load-balancing loss to the model's loss within the block; 0 adds nothing.

    The model's config is what it was afterwards, so that a saved model computes no router logits in inference. Over N
    ranks give an N-th of the coefficient: the Trainer divides the loss of tokens by the tokens of all ranks, then
    multiplies the whole loss by N because gradients are averaged.

    Raises:
        TrainingError: the model has no router.
    """
    if coefficient == 0:
        yield
        return
    if not hasattr(model, "router_aux_loss_coef"):
        raise TrainingError(
            f"aux_loss_coef is {coefficient}, but {type(model).__name__} has no router; set aux_loss_coef to 0"
        )
    module: Any = model
    before = module.router_aux_loss_coef, module.config.output_router_logits
    module.router_aux_loss_coef, module.config.output_router_logits = coefficient, True
    try:
        yield
    finally:
        module.router_aux_loss_coef, module.config.output_router_logits = before
