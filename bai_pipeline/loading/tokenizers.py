"""What training and scoring need of a checkpoint beside its model."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from bai_pipeline.errors import CheckpointError


def load_tokenizer(path: Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, ready for chat.

    Raises:
        CheckpointError: no chat template, or no padding token of its own.
    """
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"the tokenizer in {path} has no chat template; give one as chat_template in the study file"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise CheckpointError(
            f"expected a padding token other than the end token {tokenizer.eos_token!r}, got {tokenizer.pad_token!r} "
            f"from the tokenizer in {path}"
        )
    return tokenizer


def saved_dtype(path: Path) -> torch.dtype:
    """The dtype a checkpoint's config names; float32 if it names none."""
    dtype = AutoConfig.from_pretrained(path, local_files_only=True).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32
