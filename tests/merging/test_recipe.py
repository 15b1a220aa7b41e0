"""Recipes: trees whose weights sum to one, canonical JSON both ways, faults by name."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from bai_pipeline.checkpoints import Manifest
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging import (
    Input,
    MethodNode,
    ModelNode,
    Override,
    Recipe,
    bai_recipe,
    check_recorded_recipe,
    stage_1_recipe,
)

HALVES = {"instruct": 0.5, "reasoning": 0.5}


def model(name: str) -> dict[str, Any]:
    return {"model": name}


def linear(*inputs: tuple[Any, Any], **fields: Any) -> dict[str, Any]:
    return {"method": "linear", "inputs": [{"node": node, "weight": weight} for node, weight in inputs], **fields}


def recipe_of(root: Any, **fields: Any) -> dict[str, Any]:
    return {"version": 1, "root": root, **fields}


def test_a_bai_recipe_keeps_both_lists_of_weights() -> None:
    assert bai_recipe(0.25, HALVES).to_dict()["root"] == {
        "method": "linear",
        "inputs": [
            {"node": {"model": "base_model"}, "weight": 0.25},
            {
                "node": {
                    "method": "linear",
                    "inputs": [
                        {"node": {"model": "instruct_sft"}, "weight": 0.5},
                        {"node": {"model": "reasoning_sft"}, "weight": 0.5},
                    ],
                    "overrides": [],
                    "params": {},
                },
                "weight": 0.75,
            },
        ],
        "overrides": [],
        "params": {},
    }


def test_canonical_json_is_fixed_and_reads_back() -> None:
    recipe = stage_1_recipe({"reasoning": 1.0}, dtype="F32")
    text = (
        '{"dtype":"F32","root":{"inputs":[{"node":{"model":"reasoning_sft"},"weight":1.0}],'
        '"method":"linear","overrides":[],"params":{}},"version":1}'
    )
    assert recipe.to_json() == text
    assert Recipe.from_json(text) == recipe
    assert Recipe.from_json(json.dumps(json.loads(text), indent=3)).to_json() == text


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1 / 3])
def test_json_keeps_every_bit_of_the_weights(alpha: float) -> None:
    recipe = bai_recipe(alpha, {"instruct": 0.2, "math": 0.3, "reasoning": 0.5})
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_optional_fields_may_be_absent() -> None:
    assert Recipe.from_dict(recipe_of(model("a"))) == Recipe(ModelNode("a"))


def test_flat_weights_are_products_along_the_branches() -> None:
    recipe = bai_recipe(0.5, {"instruct": 0.25, "reasoning": 0.75})
    assert recipe.flat_weights() == {"base_model": 0.5, "instruct_sft": 0.125, "reasoning_sft": 0.375}
    assert recipe.models == ("base_model", "instruct_sft", "reasoning_sft")
    assert recipe.weight_sum == 1.0


def test_a_model_in_two_branches_weighs_their_sum() -> None:
    stage_1 = linear((model("base"), 0.5), (model("sft"), 0.5))
    recipe = Recipe.from_dict(recipe_of(linear((model("base"), 0.5), (stage_1, 0.5))))
    assert recipe.flat_weights() == {"base": 0.75, "sft": 0.25}


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])
def test_weights_sum_to_one_at_every_alpha_of_the_paper(alpha: float) -> None:
    assert abs(bai_recipe(alpha, {"a": 0.7, "b": 0.2, "c": 0.1}).weight_sum - 1.0) <= 1e-9


def test_weights_that_do_not_sum_to_one_are_named_with_their_sum() -> None:
    with pytest.raises(RecipeError) as caught:
        bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.6})
    assert str(caught.value) == (
        "merge weights must be non-negative and sum to 1, got 0.5 (instruct_sft) + 0.6 (reasoning_sft) = 1.1; "
        "no checkpoint was written"
    )


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"a": 0.5},
        {"a": 1.5, "b": -0.5},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": float("inf"), "b": -float("inf")},
        {"a": 0.5, "b": 0.5 + 2e-9},
    ],
)
def test_bad_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match="merge weights must be non-negative and sum to 1"):
        stage_1_recipe(weights)


@pytest.mark.parametrize("alpha", [1.2, -0.1, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(RecipeError, match=rf"^alpha must be between 0 and 1, got {alpha}; no checkpoint was written$"):
        bai_recipe(alpha, HALVES)


def test_rounding_of_a_sum_is_forgiven() -> None:
    assert sum([0.1] * 10) != 1.0
    stage_1_recipe({str(n): 0.1 for n in range(10)})
    stage_1_recipe({"a": 0.5, "b": 0.5 + 5e-10})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "recipe: expected an object with root, version, got 3"),
        ({"version": 1}, "recipe: root is missing"),
        (recipe_of(model("a"), colour=1), "recipe: colour is unknown"),
        ({"version": 2, "root": model("a")}, "recipe.version: expected 1, got 2"),
        ({"version": True, "root": model("a")}, "recipe.version: expected 1, got True"),
        (recipe_of(model("a"), dtype="F64"), "recipe.dtype: expected null or one of F32, BF16, F16, got 'F64'"),
        (recipe_of([]), "recipe.root: expected an object with inputs, method, got []"),
        (recipe_of(model("")), "recipe.root.model: expected the name of a model, got ''"),
        (recipe_of({"model": "a", "weight": 1}), "recipe.root: weight is unknown"),
        (recipe_of({"method": "linear"}), "recipe.root: inputs is missing"),
        (recipe_of({"method": 1, "inputs": []}), "recipe.root.method: expected the name of a method, got 1"),
        (recipe_of({"method": "linear", "inputs": {}}), "recipe.root.inputs: expected a list, got {}"),
        (
            recipe_of({"method": "karcher", "inputs": []}),
            "recipe.root: unknown merge method 'karcher', expected one of dare_linear, dare_ties, linear,",
        ),
        (recipe_of(linear()), "recipe.root: merge weights must be non-negative and sum to 1, got no weights = 0"),
        (recipe_of(linear((model("a"), "1"))), "recipe.root.inputs[0].weight: expected a number, got '1'"),
        (recipe_of(linear((model("a"), True))), "recipe.root.inputs[0].weight: expected a number, got True"),
        (recipe_of(linear((model("a"), float("nan")))), "recipe.root.inputs[0].weight: expected a number, got nan"),
        (recipe_of(linear((model("a"), 10**400))), "recipe.root.inputs[0].weight: expected a number, got 1000"),
        (
            recipe_of(linear((linear((model("a"), 0.5), (model("b"), 0.25)), 1.0))),
            "recipe.root.inputs[0].node: merge weights must be non-negative and sum to 1, got 0.5 (a) + 0.25 (b) = 0.7",
        ),
        (recipe_of(linear((model("a"), 1.0), params=[])), "recipe.root.params: expected an object, got []"),
        (
            recipe_of(linear((model("a"), 1.0), params={"density": 0.5})),
            "recipe.root: unknown params of linear: density; it takes none; no checkpoint was written",
        ),
        (
            recipe_of(linear((model("a"), 1.0), overrides=[{"pattern": "norm", "weights": [0.5]}])),
            "recipe.root: merge weights must be non-negative and sum to 1, got 0.5 (a) = 0.5",
        ),
        (
            recipe_of({"method": "slerp", "inputs": [{"node": model("a"), "weight": 1}]}),
            "recipe.root: slerp needs exactly two inputs, got 1; no checkpoint was written",
        ),
        (
            recipe_of(linear((model("a"), 1.0), overrides=[{"pattern": "norm", "weights": []}])),
            "recipe.root.overrides[0].weights: expected 1 weights, one per input, got []",
        ),
        (
            recipe_of(linear((model("a"), 1.0), overrides=[{"pattern": "", "weights": [1]}])),
            "recipe.root.overrides[0].pattern: expected a pattern of tensor names, got ''",
        ),
    ],
)
def test_a_malformed_recipe_is_refused_with_its_place(value: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(value)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(RecipeError, match="the recipe is not valid JSON"):
        Recipe.from_json(text)


def test_endless_nesting_is_refused() -> None:
    node = model("a")
    for _ in range(50):
        node = linear((node, 1.0))
    with pytest.raises(RecipeError, match="nested deeper than 16 levels"):
        Recipe.from_dict(recipe_of(node))


def with_overrides(*overrides: tuple[str, tuple[float, ...]], method: str = "linear") -> MethodNode:
    inputs = (Input(ModelNode("a"), 0.0), Input(ModelNode("b"), 1.0))
    return MethodNode(method, inputs, tuple(Override(pattern, weights) for pattern, weights in overrides))


def test_the_first_override_that_matches_gives_the_weights() -> None:
    node = with_overrides(("*norm*", (0.5, 0.5)), ("model.layers.[01].*", (0.25, 0.75)), ("lm_head.?eight", (1.0, 0.0)))
    assert node.weights_of("model.layers.1.input_layernorm.weight") == (0.5, 0.5)
    assert node.weights_of("model.layers.1.mlp.gate.weight") == (0.25, 0.75)
    assert node.weights_of("model.layers.11.mlp.gate.weight") == (0.0, 1.0)
    assert node.weights_of("lm_head.weight") == (1.0, 0.0)
    assert node.weights_of("lm_head.weight_scale") == (0.0, 1.0)  # the whole name must match


def test_overrides_survive_json() -> None:
    recipe = Recipe(with_overrides(("*norm*", (0.1, 0.9)), ("*", (0.5, 0.5))))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.to_dict()["root"]["overrides"] == [
        {"pattern": "*norm*", "weights": [0.1, 0.9]},
        {"pattern": "*", "weights": [0.5, 0.5]},
    ]


@pytest.mark.parametrize("weights", [(0.5, 0.6), (1.5, -0.5), (float("nan"), 1.0)])
def test_weights_of_an_override_follow_the_same_rule(weights: tuple[float, float]) -> None:
    with pytest.raises(RecipeError, match=r"merge weights must be non-negative and sum to 1, got .* \(a\) \+ .* \(b\)"):
        with_overrides(("*", weights))


def test_an_override_gives_the_base_of_task_vectors_no_weight_either() -> None:
    with_overrides(("*norm*", (0.0, 1.0)), method="task_arithmetic")
    with pytest.raises(RecipeError, match=r"the base, expected weight 0, got 0\.5"):
        with_overrides(("*norm*", (0.5, 0.5)), method="task_arithmetic")


def test_an_override_for_no_tensor_is_refused() -> None:
    recipe = Recipe(MethodNode("linear", (Input(with_overrides(("*norm*", (0.5, 0.5)), ("*mpl*", (1.0, 0.0))), 1.0),)))
    with pytest.raises(RecipeError) as caught:
        recipe.check_patterns(["model.norm.weight", "lm_head.weight"])
    assert str(caught.value) == (
        "override '*mpl*' of linear(a, b) matches none of the 2 tensors, such as 'model.norm.weight'; "
        "no checkpoint was written"
    )
    recipe.check_patterns(["model.norm.weight", "model.mpl.weight"])


def manifest_of(recipe: Recipe | None) -> Manifest:
    return Manifest(
        code_version="1",
        parents=dict.fromkeys(recipe.models, "00") if recipe else {},
        recipe=recipe.to_dict() if recipe else None,
        recipe_sha256=None,
        files={},
        tensors={},
    )


def test_the_recorded_recipe_must_be_the_requested_one() -> None:
    requested = bai_recipe(0.1, HALVES)
    check_recorded_recipe(manifest_of(requested), requested)
    with pytest.raises(RecipeError, match=r"another recipe: expected .*0\.1.*, recorded is .*0\.2"):
        check_recorded_recipe(manifest_of(bai_recipe(0.2, HALVES)), requested)
    with pytest.raises(RecipeError, match="records no recipe"):
        check_recorded_recipe(manifest_of(None), requested)
    with pytest.raises(RecipeError, match="merged from base_model, expected base_model, instruct_sft, reasoning_sft"):
        check_recorded_recipe(replace(manifest_of(requested), parents={"base_model": "0"}), requested)


def test_recipes_and_checkpoints_import_no_torch() -> None:
    code = (
        "import sys, bai_pipeline.merging, bai_pipeline.checkpoints; assert not {'torch', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
