"""Merged checkpoints load in plain transformers, with nothing missing and nothing left over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedConfig

from bai_pipeline.checkpoints import Checkpoint, verify
from bai_pipeline.merging import bai_recipe
from tests.merging.models import NAMES, OLMOE, TIED_LLAMA, auto_model, save_models

MergeInto = Callable[..., Path]


@pytest.mark.parametrize(
    ("config", "dtype", "options"),
    [
        (OLMOE, torch.float32, {}),
        (OLMOE, torch.bfloat16, {"max_shard_size": "20KB"}),
        (TIED_LLAMA, torch.bfloat16, {}),
    ],
    ids=["olmoe", "sharded bfloat16 olmoe", "tied bfloat16 llama"],
)
def test_a_merged_checkpoint_loads_and_equals_the_merge_of_loaded_models(
    tmp_path: Path, merge_into: MergeInto, config: PreTrainedConfig, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    models = save_models(tmp_path, config, dtype, **options)
    alpha, weight = 0.25, 0.5

    out = merge_into("out", bai_recipe(alpha, {"instruct": weight, "reasoning": weight}), models)

    merged, info = auto_model.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert merged.dtype == dtype
    base, instruct, reasoning = (auto_model.from_pretrained(models[name]).state_dict() for name in NAMES)
    for name, tensor in merged.state_dict().items():
        stage_1 = instruct[name].float() * weight + reasoning[name].float() * weight
        assert torch.equal(tensor, (base[name].float() * alpha + stage_1 * (1 - alpha)).to(dtype))
    assert AutoTokenizer.from_pretrained(out)("sum a 4").input_ids == [4, 5, 6]
    assert merged.generate(torch.tensor([[4, 5]]), max_new_tokens=2, do_sample=False).shape[0] == 1
    verify(out)


def test_a_chat_template_that_is_given_replaces_the_tokenizers_own(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    settings = models["reasoning_sft"] / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "old"}))
    recipe = bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5})
    templates = {}
    for name, template in (("kept", None), ("given", "new {{ messages[0]['content'] }}")):
        out = merge_into(name, recipe, models, chat_template=template)
        verify(out)
        messages = [{"role": "user", "content": "sum"}]
        templates[name] = AutoTokenizer.from_pretrained(out).apply_chat_template(messages, tokenize=False)
    assert templates == {"kept": "old", "given": "new sum"}


def test_experts_keep_their_names_on_disk_and_shards_their_number(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.bfloat16, max_shard_size="20KB")
    out = merge_into("out", bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5}), models)
    merged, base = Checkpoint.open(out), Checkpoint.open(models["base_model"])
    assert "model.layers.1.mlp.experts.3.down_proj.weight" in merged.tensors
    assert {file: [t.name for t in tensors] for file, tensors in merged.shards().items()} == {
        file: [t.name for t in tensors] for file, tensors in base.shards().items()
    }
    assert len(merged.shards()) > 1


def test_a_tied_head_is_not_written(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    out = merge_into("out", bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5}), models)
    assert "lm_head.weight" not in Checkpoint.open(out).tensors
