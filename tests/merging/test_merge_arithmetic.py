"""The engine's arithmetic against an independent reference in numpy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bai_pipeline.checkpoints import CHUNK_ELEMENTS, checkpoint_digest, verify
from bai_pipeline.merging import Recipe, bai_recipe, stage_1_recipe
from bai_pipeline.merging.destination import merge_to
from bai_pipeline.progress import SilentReporter
from tests.merging.reference import Floats, rounded, weighted_sum

MakeModel = Callable[..., Path]
MergeInto = Callable[..., Path]

WEIGHTS = {"instruct": 0.2, "math": 0.3, "reasoning": 0.5}


def read(path: Path) -> dict[str, Floats]:
    tensors: dict[str, Floats] = {}
    for file in path.glob("*.safetensors"):
        tensors |= {name: np.atleast_1d(tensor.float().numpy()) for name, tensor in load_file(file).items()}
    return tensors


def same_bits(one: Floats, other: Floats) -> bool:
    return one.shape == other.shape and bool((one.view(np.uint32) == other.view(np.uint32)).all())


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_merge_is_the_reference_bit_for_bit(
    make_model: MakeModel, merge_into: MergeInto, dtype: torch.dtype, alpha: float
) -> None:
    large = 2 * CHUNK_ELEMENTS + 5
    names = ["base_model", "instruct_sft", "math_sft", "reasoning_sft"]
    models = {
        name: make_model(
            name,
            seed=seed,
            dtype=dtype,
            changes={"large": torch.randn(large, generator=torch.Generator().manual_seed(100 + seed)).to(dtype)},
        )
        for seed, name in enumerate(names)
    }

    found = read(merge_into("out", bai_recipe(alpha, WEIGHTS), models))

    inputs = [read(models[name]) for name in names]
    assert found.keys() == inputs[0].keys()
    for tensor in found:
        base, *sft = [model[tensor] for model in inputs]
        stage_1 = weighted_sum(sft, list(WEIGHTS.values()))
        expected = weighted_sum([base, stage_1], [alpha, 1 - alpha])
        assert same_bits(found[tensor], rounded(expected, dtype))


def test_halves_of_known_values_are_known(make_model: MakeModel, merge_into: MergeInto) -> None:
    """0.5 * 1 + 0.5 * (1 + 2^-7) lies between two bfloat16 neighbours of even and odd last bit: even wins."""
    step = 2.0**-7
    one = make_model("a", changes={"norm": torch.tensor([1.0, 1.0 + step, -3.0]).bfloat16()})
    two = make_model("b", changes={"norm": torch.tensor([1.0 + step, 1.0 + 2 * step, 5.0]).bfloat16()})
    recipe = Recipe.from_dict(
        {
            "version": 1,
            "root": {
                "method": "linear",
                "inputs": [{"node": {"model": "a"}, "weight": 0.5}, {"node": {"model": "b"}, "weight": 0.5}],
            },
        }
    )
    assert read(merge_into("out", recipe, {"a": one, "b": two}))["norm"].tolist() == [1.0, 1.0 + 2 * step, 1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_alpha_zero_is_stage_1_and_alpha_one_is_the_base_byte_for_byte(
    make_model: MakeModel, merge_into: MergeInto, dtype: torch.dtype
) -> None:
    zeros = {"zeros": torch.tensor([-0.0, 0.0]).to(dtype)}
    plain = {"zeros": torch.tensor([0.0, -0.0]).to(dtype)}
    models = {"base_model": make_model("base", dtype=dtype, changes=plain)} | {
        f"{role}_sft": make_model(role, seed=seed, dtype=dtype, changes=zeros) for seed, role in enumerate(WEIGHTS, 1)
    }
    stage_1 = merge_into("stage_1", stage_1_recipe(WEIGHTS), models)
    zero = merge_into("zero", bai_recipe(0.0, WEIGHTS), models)
    one = merge_into("one", bai_recipe(1.0, WEIGHTS), models)

    file = "model.safetensors"
    assert (zero / file).read_bytes() == (stage_1 / file).read_bytes()
    assert (one / file).read_bytes() == (models["base_model"] / file).read_bytes()


def test_one_sft_model_alone_is_itself(make_model: MakeModel, merge_into: MergeInto) -> None:
    reasoning = make_model("reasoning", seed=3)
    out = merge_into("out", stage_1_recipe({"reasoning": 1.0}), {"reasoning_sft": reasoning})
    assert (out / "model.safetensors").read_bytes() == (reasoning / "model.safetensors").read_bytes()
    assert checkpoint_digest(out) == checkpoint_digest(reasoning)


def test_inputs_may_be_sharded_differently_and_the_output_follows_the_first(
    make_model: MakeModel, merge_into: MergeInto
) -> None:
    layout = [["scale", "norm"], ["embed", "experts.1", "experts.0"]]
    models = {
        "base_model": make_model("base", shards=layout),
        "instruct_sft": make_model("sft", seed=1, shards=[[name] for names in layout for name in names]),
    }
    single = {"base_model": make_model("base_single"), "instruct_sft": make_model("sft_single", seed=1)}
    recipe = bai_recipe(0.3, {"instruct": 1.0})

    out, expected = merge_into("out", recipe, models), merge_into("expected", recipe, single)

    weight_map = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map == json.loads((models["base_model"] / "model.safetensors.index.json").read_text())["weight_map"]
    for name, array in read(expected).items():
        assert same_bits(read(out)[name], array)
    assert checkpoint_digest(out) != checkpoint_digest(models["base_model"])


def test_another_output_dtype_is_rounded_once_and_written_to_the_config(
    make_model: MakeModel, merge_into: MergeInto
) -> None:
    models = {"base_model": make_model("base"), "instruct_sft": make_model("sft", seed=1)}
    out = merge_into("out", bai_recipe(0.3, {"instruct": 1.0}, dtype="F32"), models)
    one, other = read(models["base_model"]), read(models["instruct_sft"])
    for name, found in read(out).items():
        assert same_bits(found, weighted_sum([one[name], other[name]], [0.3, 0.7]))
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert json.loads((models["base_model"] / "config.json").read_text())["dtype"] == "bfloat16"


def test_companions_come_from_the_models_that_the_recipe_says(make_model: MakeModel, merge_into: MergeInto) -> None:
    models = {"base_model": make_model("base"), "instruct_sft": make_model("sft", seed=1)}
    (models["instruct_sft"] / "chat_template.jinja").write_text("another")
    (models["base_model"] / "special_tokens_map.json").write_text("{}")
    recipe = bai_recipe(0.3, {"instruct": 1.0})

    out = merge_into("out", recipe, models, tokenizer_from="instruct_sft")

    assert (out / "config.json").read_bytes() == (models["base_model"] / "config.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "another"
    assert json.loads((out / "generation_config.json").read_text())["from"] == "sft"
    assert not (out / "special_tokens_map.json").exists()
    assert Recipe.from_json((out / "recipe.json").read_text()) == recipe


def test_the_manifest_verifies_and_names_the_parents_by_their_digests(
    make_model: MakeModel, merge_into: MergeInto
) -> None:
    models = {"base_model": make_model("base"), "instruct_sft": make_model("sft", seed=1)}
    recipe = bai_recipe(0.3, {"instruct": 1.0})
    digests = {name: checkpoint_digest(path) for name, path in models.items()}

    out = merge_into("out", recipe, models, digests=digests)

    manifest = verify(out)
    assert manifest.parents == digests
    assert manifest.recipe == recipe.to_dict()
    assert manifest.digest == checkpoint_digest(out)


def test_the_same_merge_twice_is_the_same_directory(make_model: MakeModel, merge_into: MergeInto) -> None:
    models = {"base_model": make_model("base"), "instruct_sft": make_model("sft", seed=1)}
    first, second = (merge_into(name, bai_recipe(0.3, {"instruct": 1.0}), models) for name in ("x", "y"))
    assert {f.name: f.read_bytes() for f in first.iterdir()} == {f.name: f.read_bytes() for f in second.iterdir()}


def test_a_tokenizer_may_come_from_a_model_that_is_not_merged(make_model: MakeModel, merge_into: MergeInto) -> None:
    models = {"instruct_sft": make_model("instruct"), "reasoning_sft": make_model("reasoning", seed=1)}
    out = merge_into("out", stage_1_recipe({"instruct": 1.0}), models, tokenizer_from="reasoning_sft")
    assert json.loads((out / "generation_config.json").read_text())["from"] == "reasoning"
    assert verify(out).parents.keys() == {"instruct_sft"}


def test_merging_to_a_destination_is_whole_or_absent(make_model: MakeModel, tmp_path: Path) -> None:
    models = {"base_model": make_model("base"), "instruct_sft": make_model("sft", seed=1)}
    recipe, destination = bai_recipe(0.3, {"instruct": 1.0}), tmp_path / "results" / "actor"
    manifest = merge_to(recipe, models, destination, "instruct_sft", "1", SilentReporter())
    assert verify(destination) == manifest
    assert [entry.name for entry in destination.parent.iterdir()] == ["actor"]


def test_progress_counts_the_bytes_of_the_output(make_model: MakeModel, tmp_path: Path) -> None:
    class Recorder(SilentReporter):
        seen: tuple[int, int] = (0, 0)

        def progress(self, done: int, total: int, **numbers: float) -> None:
            self.seen = (done, total)

    recorder, model = Recorder(), make_model("a")
    merge_to(stage_1_recipe({"a": 1.0}), {"a_sft": model}, tmp_path / "out", "a_sft", "1", recorder)
    nbytes = 2 * (16 * 8 + 2 * 8 * 6 + 8 + 1)
    assert recorder.seen == (nbytes, nbytes)


def test_empty_tensors_are_kept(make_model: MakeModel, merge_into: MergeInto, tmp_path: Path) -> None:
    model = make_model("a")
    save_file({"none": torch.zeros(0, 4), "w": torch.ones(2)}, model / "model.safetensors", {"format": "pt"})
    out = merge_into("out", stage_1_recipe({"a": 1.0}), {"a_sft": model})
    assert load_file(out / "model.safetensors")["none"].shape == (0, 4)
