"""Fit of models and tokenizers that transformers and tokenizers wrote."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
)

from bai_pipeline.checkpoints import Checkpoint, FitReport, check_fit, compare

auto_model: Any = AutoModelForCausalLM
make_tokenizer: Any = PreTrainedTokenizerFast
WORDS = ("<unk>", "<eos>", *(f"w{number}" for number in range(19)))
SIZES: dict[str, Any] = {
    "vocab_size": 24,  # the 21 words, padded to a multiple of 8
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LLAMA = LlamaConfig(**SIZES)
TIED_LLAMA = LlamaConfig(tie_word_embeddings=True, **SIZES)
QWEN3_MOE = Qwen3MoeConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6, **SIZES)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WEIGHTS = "model.safetensors"


def build_tokenizer() -> Any:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return make_tokenizer(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


def save_base(path: Path, config: PreTrainedConfig) -> Any:
    model = auto_model.from_config(deepcopy(config))
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return model


def save_thinking(path: Path, config: PreTrainedConfig, pad_to_multiple_of: int | None) -> None:
    """What supervised training makes of it: two tokens, a chat template, rows for all tokens, another way to sample."""
    tokenizer, model = build_tokenizer(), auto_model.from_config(deepcopy(config))
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
    model.generation_config.update(do_sample=True, temperature=0.6)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def opened(root: Path, *names: str) -> dict[str, Checkpoint]:
    return {name: Checkpoint.open(root / name) for name in names}


NOTES = (
    "generation_config.json: do_sample is absent in base_model, True in reasoning_sft",
    "generation_config.json: temperature is absent in base_model, 0.6 in reasoning_sft",
    "tokenizer: 2 tokens of reasoning_sft are not in base_model: '<think>', '</think>'",
    "tokenizer: the chat templates of base_model and reasoning_sft differ",
    "rows 21-22 ('<think>', '</think>') come from reasoning_sft: base_model has no such tokens",
)


@pytest.mark.parametrize(
    ("config", "tensors"), [(LLAMA, {EMBEDDING, HEAD}), (TIED_LLAMA, {EMBEDDING})], ids=["untied", "tied"]
)
def test_added_tokens_of_a_resized_model_come_from_it(
    tmp_path: Path, config: PreTrainedConfig, tensors: set[str]
) -> None:
    save_base(tmp_path / "base_model", config)
    save_thinking(tmp_path / "reasoning_sft", config, None)
    report = check_fit(opened(tmp_path, "base_model", "reasoning_sft"), missing_rows_from="reasoning_sft")
    assert (report.rows, report.donor) == (23, "reasoning_sft")
    assert report.missing_rows == dict.fromkeys(tensors, ((21, 23),))
    assert report.notes == (*NOTES, "row 23 of base_model: cut off, reasoning_sft has 23; no token is lost")


def test_added_tokens_in_the_padding_come_from_the_model_that_has_them(tmp_path: Path) -> None:
    save_base(tmp_path / "base_model", LLAMA)
    save_thinking(tmp_path / "reasoning_sft", LLAMA, 8)
    report = check_fit(opened(tmp_path, "base_model", "reasoning_sft"), missing_rows_from="reasoning_sft")
    assert report.rows is None
    assert report.missing_rows == dict.fromkeys((EMBEDDING, HEAD), ((21, 23),))
    assert report.notes == NOTES


def test_a_tied_head_that_only_one_model_stores_is_left_out(tmp_path: Path) -> None:
    for name in ("base_model", "instruct_sft", "untied_sft"):
        save_base(tmp_path / name, TIED_LLAMA)
    for name, change in (("instruct_sft", 0.0), ("untied_sft", 1.0)):
        weights = load_file(tmp_path / name / WEIGHTS)
        save_file(weights | {HEAD: weights[EMBEDDING] + change}, tmp_path / name / WEIGHTS, metadata={"format": "pt"})
    report = check_fit(opened(tmp_path, "base_model", "instruct_sft"))
    assert report.left_out == {"instruct_sft": (HEAD,)}
    (difference,) = compare(opened(tmp_path, "base_model", "untied_sft")).differences
    assert difference.startswith(f"tensor {HEAD} of untied_sft is not its {EMBEDDING}: the head is untied there")


def test_packed_experts_fit_once_they_are_saved_as_the_message_says(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base_model", QWEN3_MOE)
    sft = save_base(tmp_path / "packed_sft", QWEN3_MOE)
    save_file(sft.state_dict(), tmp_path / "packed_sft" / WEIGHTS, metadata={"format": "pt"})
    (difference,) = compare(opened(tmp_path, "base_model", "packed_sft")).differences
    assert difference == (
        "experts are packed in packed_sft (model.layers.0.mlp.experts.down_proj) and one tensor each in base_model "
        "(model.layers.0.mlp.experts.0.down_proj.weight): save one of them anew; in transformers, save_pretrained "
        "writes those of packed_sft one tensor each when the model was made by from_config and load_state_dict "
        "(from_pretrained keeps them packed), and with save_original_format=False it packs those of base_model"
    )

    again = auto_model.from_config(deepcopy(QWEN3_MOE))
    again.load_state_dict(load_file(tmp_path / "packed_sft" / WEIGHTS))
    again.save_pretrained(tmp_path / "single_sft")
    auto_model.from_pretrained(tmp_path / "packed_sft").save_pretrained(tmp_path / "still_packed")
    loaded = auto_model.from_pretrained(tmp_path / "base_model")
    loaded.save_pretrained(tmp_path / "packed_base", save_original_format=False)
    for name in ("single_sft", "still_packed", "packed_base"):
        build_tokenizer().save_pretrained(tmp_path / name)
    fits = FitReport((), (), vocabulary_tensors=(HEAD, EMBEDDING))
    assert check_fit(opened(tmp_path, "base_model", "single_sft")) == fits
    assert check_fit(opened(tmp_path, "packed_base", "packed_sft", "still_packed")) == fits
    for path, model in ((tmp_path / "single_sft", sft), (tmp_path / "packed_base", base)):
        found = auto_model.from_pretrained(path).state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in model.state_dict().items())


def test_another_number_of_experts_is_named_by_config_and_tensors(tmp_path: Path) -> None:
    save_base(tmp_path / "base_model", QWEN3_MOE)
    config = deepcopy(QWEN3_MOE)
    config.num_experts = 6
    save_base(tmp_path / "sft", config)
    found = compare(opened(tmp_path, "base_model", "sft")).differences
    assert found[0] == "config.json: num_local_experts is 4 in base_model, 6 in sft"
    assert "tensor model.layers.0.mlp.gate.weight has shape [4, 16] in base_model, [6, 16] in sft" in found
    experts = [line for line in found if line.startswith("tensor model.layers.0.mlp.experts.4.")]
    assert len(experts) == 3
    assert all("is missing in base_model (it is in sft, model.safetensors)" in line for line in experts)
