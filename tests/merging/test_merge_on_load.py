"""A recipe directory loads as the checkpoint that the merge would write, bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    OlmoeForCausalLM,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from bai_pipeline.errors import CheckpointError, FitError, RecipeError
from bai_pipeline.evals.engines.interface import Options, Prompt
from bai_pipeline.evals.engines.model import open_model_engine
from bai_pipeline.loading import load_model
from bai_pipeline.loading.packing import pack_experts
from bai_pipeline.merging import Recipe, bai_recipe
from bai_pipeline.merging.lazy import MergedTensors
from bai_pipeline.merging.plan import plan_merge
from bai_pipeline.merging.recipe_directory import localize, open_recipe_directory, write_recipe_directory
from bai_pipeline.ppo.engines import load_actor, load_critic
from tests.merging.models import OLMOE, SIZES, TIED_LLAMA, save_models

MergeInto = Callable[..., Path]

RECIPE = bai_recipe(0.3, {"instruct": 0.5, "reasoning": 0.5})
QWEN3_MOE = Qwen3MoeConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, **SIZES)
UNTIED_LLAMA = LlamaConfig(tie_word_embeddings=False, **SIZES)


def recipe_directory(out: Path, models: dict[str, Path], recipe: Recipe = RECIPE) -> Path:
    out.mkdir()
    write_recipe_directory(plan_merge([recipe], models, "reasoning_sft"), out)
    return out


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "config", [OLMOE, TIED_LLAMA, UNTIED_LLAMA, QWEN3_MOE], ids=["olmoe", "tied llama", "llama", "qwen3 moe"]
)
def test_a_recipe_loads_as_the_file_that_would_have_been_written(
    tmp_path: Path, merge_into: MergeInto, config: PreTrainedConfig, dtype: torch.dtype
) -> None:
    models = save_models(tmp_path, config, dtype)
    written, recipe = merge_into("out", RECIPE, models), recipe_directory(tmp_path / "recipe", models)
    assert not list(recipe.glob("*.safetensors"))
    choices: list[dict[str, Any]] = [{}, {"dtype": torch.float32}, {"dtype": torch.bfloat16}]
    for options in choices:
        from_file, merged = (load_model(AutoModelForCausalLM, path, **options) for path in (written, recipe))
        assert same_state(merged, from_file)
        assert merged.config.to_diff_dict().keys() == from_file.config.to_diff_dict().keys()
        assert merged.generation_config is not None
        assert from_file.generation_config is not None
        assert merged.generation_config.to_dict() == from_file.generation_config.to_dict()
    assert AutoTokenizer.from_pretrained(recipe)("sum a 4").input_ids == [4, 5, 6]


def test_actor_and_critic_start_from_a_recipe_as_from_the_file(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    written, recipe = merge_into("out", RECIPE, models), recipe_directory(tmp_path / "recipe", models)
    assert same_state(*(load_critic(path, path, torch.float32) for path in (written, recipe)))
    assert same_state(*(load_actor(path, torch.bfloat16) for path in (written, recipe)))


def test_benchmarks_are_answered_by_a_recipe_as_by_the_file(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    (models["reasoning_sft"] / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    written, recipe = merge_into("out", RECIPE, models), recipe_directory(tmp_path / "recipe", models)
    answers = []
    for path in (written, recipe):
        engine = open_model_engine(path, batch_size=1)
        prompts, greedy = [Prompt("sum a 4", 0)], Options(8, temperature=0.0, top_p=1.0)
        answers.append(list(engine.generate(prompts, greedy, seed=0, total=1, chat=False)))
    assert answers[0] == answers[1]
    assert answers[0][0][1].text


@pytest.mark.parametrize("config", [OLMOE, QWEN3_MOE, TIED_LLAMA], ids=["olmoe", "qwen3 moe", "tied llama"])
def test_what_transformers_saves_of_a_loaded_recipe_is_what_it_saves_of_the_file(
    tmp_path: Path, merge_into: MergeInto, config: PreTrainedConfig
) -> None:
    models = save_models(tmp_path, config, torch.bfloat16)
    written, recipe = merge_into("out", RECIPE, models), recipe_directory(tmp_path / "recipe", models)
    for path in (written, recipe):
        load_model(AutoModelForCausalLM, path).save_pretrained(tmp_path / f"saved {path.name}")
    saved = [(tmp_path / f"saved {path.name}") for path in (written, recipe)]
    assert load_file(saved[0] / "model.safetensors").keys() == load_file(written / "model.safetensors").keys()
    contents = [{file.name: file.read_bytes() for file in place.iterdir()} for place in saved]
    assert contents[0] == contents[1]


def test_experts_are_merged_to_their_place_in_the_model(tmp_path: Path) -> None:
    models = save_models(tmp_path, OLMOE, torch.bfloat16)
    tensors = MergedTensors(plan_merge([RECIPE], models, "reasoning_sft"))
    state, conversions = pack_experts(tensors, OlmoeForCausalLM, OLMOE)
    assert {name for name in state if "experts" in name} == {
        f"model.layers.{layer}.mlp.experts.{kind}" for layer in (0, 1) for kind in ("gate_up_proj", "down_proj")
    }
    assert len(conversions) == 2


@pytest.mark.parametrize("backend", ["kernel", "numpy", "torch"])
def test_a_tensor_can_be_asked_for_alone_before_it_is_computed(
    tmp_path: Path, merge_into: MergeInto, backend: Any
) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    tensors = MergedTensors(plan_merge([RECIPE], models, "reasoning_sft"), backend=backend)
    written = load_file(merge_into("out", RECIPE, models) / "model.safetensors")
    assert set(tensors) == written.keys()
    name = "model.layers.1.mlp.up_proj.weight"
    assert tensors[name].get_shape() == [16, 32]
    assert tensors[name].get_dtype() == "BF16"
    assert torch.equal(tensors[name][...], written[name])
    assert torch.equal(tensors[name][3:5], written[name][3:5])


def test_a_nan_is_named_although_transformers_swallows_what_its_state_dict_raises(tmp_path: Path) -> None:
    models = save_models(tmp_path, OLMOE, torch.float32)
    recipe = recipe_directory(tmp_path / "recipe", models)
    file = models["reasoning_sft"] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.experts.2.down_proj.weight"][1, 3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    recipe = recipe_directory(tmp_path / "again", models)
    with pytest.raises(CheckpointError) as caught:
        load_model(AutoModelForCausalLM, recipe)
    assert f"{file}: tensor model.layers.1.mlp.experts.2.down_proj.weight of reasoning_sft" in str(caught.value)
    assert "flat position 19" in str(caught.value)


def test_a_model_that_changed_since_the_recipe_was_written_is_refused(tmp_path: Path) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    recipe = recipe_directory(tmp_path / "recipe", models)
    config = models["instruct_sft"] / "generation_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"instruct_sft has changed since .*merge\.json was written"):
        load_model(AutoModelForCausalLM, recipe)


def test_a_recipe_without_places_is_made_loadable_by_whoever_knows_them(tmp_path: Path, merge_into: MergeInto) -> None:
    models = save_models(tmp_path, OLMOE, torch.bfloat16)
    stored, local = tmp_path / "stored", tmp_path / "local"
    stored.mkdir()
    local.mkdir()
    plan = plan_merge([RECIPE], models, "reasoning_sft")
    write_recipe_directory(plan, stored, paths=False, digests=dict.fromkeys(models, "00"))
    assert str(tmp_path) not in "".join(file.read_text() for file in stored.iterdir())
    with pytest.raises(CheckpointError, match="says not where base_model lies"):
        load_model(AutoModelForCausalLM, stored)
    with pytest.raises(CheckpointError, match="no directory was given for base_model, reasoning_sft"):
        localize(stored, {"instruct_sft": models["instruct_sft"]}, local)
    localize(stored, models, local)
    written = load_model(AutoModelForCausalLM, merge_into("out", RECIPE, models))
    assert same_state(load_model(AutoModelForCausalLM, local), written)


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda value: value.update(version=2), CheckpointError, "expected version 1"),
        (lambda value: value.update(tokenizer_from="nobody"), CheckpointError, "tokenizer_from among them"),
        (lambda value: value["models"]["base_model"].pop("path"), CheckpointError, "models.base_model: expected path"),
        (lambda value: value["models"].pop("base_model"), RecipeError, "unknown model base_model"),
    ],
)
def test_a_malformed_merge_file_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], error: type[Exception], message: str
) -> None:
    recipe = recipe_directory(tmp_path / "recipe", save_models(tmp_path, TIED_LLAMA, torch.bfloat16))
    value = json.loads((recipe / "merge.json").read_text())
    edit(value)
    (recipe / "merge.json").write_text(json.dumps(value))
    with pytest.raises(error, match=message):
        open_recipe_directory(recipe)


def test_models_that_do_not_fit_are_refused_before_a_recipe_is_written(tmp_path: Path) -> None:
    models = save_models(tmp_path, TIED_LLAMA, torch.bfloat16)
    config = models["instruct_sft"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    with pytest.raises(FitError, match="rms_norm_eps"):
        recipe_directory(tmp_path / "recipe", models)
