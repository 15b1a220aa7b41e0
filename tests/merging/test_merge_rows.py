"""Added tokens, padded vocabularies and tied heads, in checkpoints that transformers wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bai_pipeline.checkpoints import checkpoint_digest, read_manifest, verify
from bai_pipeline.errors import FitError
from bai_pipeline.loading import load_model
from bai_pipeline.merging import bai_recipe, stage_1_recipe
from bai_pipeline.merging.plan import plan_merge
from bai_pipeline.merging.recipe_directory import write_recipe_directory
from tests.merging.models import OLMOE, TIED_LLAMA, auto_model, save_models

MergeInto = Callable[..., Path]

RECIPE = bai_recipe(0.25, {"instruct": 0.5, "reasoning": 0.5})
WORDS = 7
"""In the vocabulary of every model; their embeddings have 64 rows."""


def add_tokens(path: Path, tokens: list[str], rows: int) -> None:
    """As fine-tuning does: the tokens get the next ids, the embeddings `rows` rows."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(tokens, special_tokens=True)
    model = auto_model.from_pretrained(path)
    torch.manual_seed(len(tokens))
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


@pytest.mark.parametrize("config", [OLMOE, TIED_LLAMA], ids=["untied", "tied"])
def test_tokens_that_only_the_reasoning_model_has_keep_its_rows(
    tmp_path: Path, merge_into: MergeInto, config: Any
) -> None:
    models = save_models(tmp_path, config, torch.bfloat16)
    add_tokens(models["reasoning_sft"], ["<think>", "</think>"], 66)

    out = merge_into("out", RECIPE, models)

    base, instruct, reasoning = (tensors(path) for path in models.values())
    for name in [name for name in base if name in ("model.embed_tokens.weight", "lm_head.weight")]:
        merged = tensors(out)[name]
        assert merged.shape == (66, 32)
        shared = 0.25 * base[name].float() + 0.75 * (0.5 * instruct[name].float() + 0.5 * reasoning[name][:64].float())
        expected = torch.cat([shared.bfloat16(), reasoning[name][64:]])
        expected[WORDS : WORDS + 2] = reasoning[name][WORDS : WORDS + 2]
        assert torch.equal(merged, expected)
    manifest = verify(out)
    assert manifest.missing_rows_from == "reasoning_sft"
    assert manifest.missing_rows["model.embed_tokens.weight"] == [[WORDS, WORDS + 2], [64, 66]]
    assert manifest.parents == {name: checkpoint_digest(path) for name, path in models.items()}
    loaded = load_model(AutoModelForCausalLM, out)
    assert loaded.config.vocab_size == 66
    assert AutoTokenizer.from_pretrained(out)("<think> sum").input_ids == [WORDS, 4]

    recipe = tmp_path / "recipe"
    recipe.mkdir()
    write_recipe_directory(plan_merge([RECIPE], models, "reasoning_sft"), recipe)
    lazily = load_model(AutoModelForCausalLM, recipe).state_dict()
    assert all(torch.equal(lazily[name], tensor) for name, tensor in loaded.state_dict().items())


def test_rows_beyond_the_donors_are_cut_off_and_read_all_the_same(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    add_tokens(models["base_model"], [], 72)
    out = merge_into("out", RECIPE, models)
    assert tensors(out)["lm_head.weight"].shape == (64, 32)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 64
    assert read_manifest(out).parents["base_model"] == checkpoint_digest(models["base_model"])


def test_a_nan_in_a_row_that_is_cut_off_is_refused(tmp_path: Path, merge_into: MergeInto) -> None:
    from bai_pipeline.errors import CheckpointError

    models = save_models(tmp_path, OLMOE, torch.float32)
    add_tokens(models["base_model"], [], 72)
    content = tensors(models["base_model"])
    content["lm_head.weight"][70, 5] = float("nan")
    save_file(content, models["base_model"] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lm_head.weight of base_model: .* flat position {70 * 32 + 5};"):
        merge_into("out", RECIPE, models)


def test_rows_can_come_from_another_model_than_the_tokenizer(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    for name in ("instruct_sft", "reasoning_sft"):
        add_tokens(models[name], ["<think>"], 65)
    recipe = stage_1_recipe({"instruct": 0.5, "reasoning": 0.5})
    halves = tensors(merge_into("halves", recipe, models))["lm_head.weight"]
    instruct, reasoning = (tensors(models[name])["lm_head.weight"] for name in ("instruct_sft", "reasoning_sft"))
    assert torch.equal(halves[WORDS], 0.5 * instruct[WORDS] + 0.5 * reasoning[WORDS])
    out = merge_into("out", RECIPE, models, missing_rows_from="instruct_sft")
    assert torch.equal(tensors(out)["lm_head.weight"][WORDS], instruct[WORDS])
    assert read_manifest(out).missing_rows_from == "instruct_sft"


def test_a_head_that_only_repeats_the_embeddings_is_left_out_but_is_part_of_its_parent(
    tmp_path: Path, merge_into: MergeInto
) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    expected = tensors(merge_into("expected", RECIPE, models))
    content = tensors(models["instruct_sft"])
    content["lm_head.weight"] = content["model.embed_tokens.weight"].clone()
    save_file(content, models["instruct_sft"] / "model.safetensors", metadata={"format": "pt"})
    out = merge_into("out", RECIPE, models)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(out).items())
    assert tensors(out).keys() == expected.keys()
    assert read_manifest(out).parents["instruct_sft"] == checkpoint_digest(models["instruct_sft"])


def test_inputs_of_other_dtypes_are_merged_in_the_bases_dtype(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.float32)
    for name, dtype in (("base_model", torch.bfloat16), ("instruct_sft", torch.float16)):
        model = auto_model.from_pretrained(models[name], dtype=dtype)
        model.save_pretrained(models[name])
    out = tensors(merge_into("out", RECIPE, models))
    base, instruct, reasoning = (tensors(path) for path in models.values())
    for name, merged in out.items():
        stage_1 = 0.5 * instruct[name].float() + 0.5 * reasoning[name].float()
        assert torch.equal(merged, (0.25 * base[name].float() + 0.75 * stage_1).bfloat16())


def test_one_token_id_that_means_two_things_is_fatal(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    add_tokens(models["instruct_sft"], ["<tool>"], 64)
    add_tokens(models["reasoning_sft"], ["<think>"], 64)
    with pytest.raises(FitError, match=f"id {WORDS} is '<tool>' in instruct_sft, '<think>' in reasoning_sft"):
        merge_into("out", RECIPE, models)
