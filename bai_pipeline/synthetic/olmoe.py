"""A tiny OLMoE of the embedded world."""

import torch
from transformers import GenerationConfig, OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.settings import ModelSettings


def build_olmoe(model: ModelSettings, tokenizer: PreTrainedTokenizerFast, seed: int) -> OlmoeForCausalLM:
    """A randomly initialised OLMoE in float32 for the tokenizer's vocabulary; leaves torch's random state alone."""
    config = OlmoeConfig(
        **model.model_dump(),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = OlmoeForCausalLM(config)
    built.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=config.pad_token_id, bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id
    )
    return built
