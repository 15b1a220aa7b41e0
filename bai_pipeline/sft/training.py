"""Pretraining of the embedded world's base model and supervised fine-tuning of any causal LM.

Both leave a Hugging Face directory (config.json, generation_config.json, model.safetensors, tokenizer files). On a
CPU the same data, settings and seed give the same bytes at the same number of threads.
"""

import tempfile
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from bai_pipeline.loading import load_model, load_tokenizer, saved_dtype
from bai_pipeline.progress import Reporter
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.settings import ModelSettings, TrainingSettings
from bai_pipeline.sft.examples import IGNORED, Collator, Examples, conversations, packed_documents
from bai_pipeline.sft.trainer import DeepSpeedConfig, router_loss, run_training, training_arguments
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer

Metrics = dict[str, float | int | str]


def pretrain(
    data: Path,
    out: Path,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    report: Reporter,
    *,
    deepspeed: DeepSpeedConfig | None = None,
) -> Metrics:
    """Train a new tiny OLMoE on documents, packed to `training.max_length` tokens.

    Args:
        data: Parquet table {text} in the words of the embedded world.
        out: existing empty directory.
        deepspeed: see `training_arguments`.

    Raises:
        DataError: the table cannot be read or holds too little.
        TrainingError: the settings do not fit the data, or the loss is not finite.
    """
    tokenizer = build_tokenizer(model.max_position_embeddings)
    examples = packed_documents(data, tokenizer, training.max_length)
    with quiet_transformers(), tempfile.TemporaryDirectory() as work:
        arguments = training_arguments(training, len(examples), seed, Path(work), deepspeed)
        built = build_olmoe(model, tokenizer, seed)
        return _train(built, tokenizer, examples, out, arguments, training, torch.float32, report)


def finetune(
    base: Path,
    data: Path,
    out: Path,
    training: TrainingSettings,
    seed: int,
    report: Reporter,
    chat_template: str | None = None,
    *,
    deepspeed: DeepSpeedConfig | None = None,
) -> Metrics:
    """Fine-tune all weights of a causal LM on the last answers of conversations.

    Trains in float32 (or what the DeepSpeed configuration says) and saves in the base's dtype, so that the result can
    be merged with its base.

    Args:
        base: checkpoint directory with tokenizer.
        data: table {messages}.
        out: existing empty directory.
        chat_template: Jinja text that replaces the tokenizer's own.
        deepspeed: see `training_arguments`.

    Raises:
        CheckpointError: the base's tokenizer has no chat template and none is given, or no padding token; or the
            tensors are not exactly the model's.
        DataError: the table breaks its schema or holds an example longer than `training.max_length`.
        TrainingError: the settings do not fit the data, or the loss is not finite.
    """
    with quiet_transformers(), tempfile.TemporaryDirectory() as work:
        tokenizer = load_tokenizer(base, chat_template)
        examples = conversations(data, tokenizer, training.max_length)
        arguments = training_arguments(training, len(examples), seed, Path(work), deepspeed)
        model = load_model(AutoModelForCausalLM, base, dtype=torch.float32)
        return _train(model, tokenizer, examples, out, arguments, training, saved_dtype(base), report)


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    out: Path,
    arguments: TrainingArguments,
    training: TrainingSettings,
    dtype: torch.dtype,
    report: Reporter,
) -> Metrics:
    set_seed(arguments.seed)
    with router_loss(model, training.aux_loss_coef / arguments.world_size):
        finished = run_training(Trainer, model, examples, Collator(int(tokenizer.pad_token_id)), arguments, report)
    finished.save(out, tokenizer, dtype)
    return {
        "examples": len(examples),
        "learned_tokens": sum(
            label != IGNORED for index in range(len(examples)) for label in examples[index]["labels"]
        ),
        "steps": training.steps,
        "first_loss": finished.first_loss,
        "final_loss": finished.final_loss,
    }
