"""Tiny models of transformers, each with a tokenizer."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLMOE = OlmoeConfig(num_experts=4, num_experts_per_tok=2, **SIZES)
TIED_LLAMA = LlamaConfig(tie_word_embeddings=True, **SIZES)
auto_model: Any = AutoModelForCausalLM
make_tokenizer: Any = PreTrainedTokenizerFast
NAMES = ("base_model", "instruct_sft", "reasoning_sft")


def save_models(root: Path, config: PreTrainedConfig, dtype: torch.dtype, **options: Any) -> dict[str, Path]:
    words = {word: number for number, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", "sum", "a", "4"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = make_tokenizer(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    models = {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        models[name] = root / name
        auto_model.from_config(config, dtype=dtype).save_pretrained(models[name], **options)
        fast.save_pretrained(models[name])
    return models
