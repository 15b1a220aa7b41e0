"""mergekit configurations as recipes: the same weights for every tensor, or a refusal that names key and line."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging import MethodNode, Recipe
from bai_pipeline.merging.mergekit_yaml import MergekitMerge, mergekit_models, read_mergekit

LAYERS = 5
OUTSIDE = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
TENSORS = [
    *OUTSIDE,
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(LAYERS)
        for part in ("self_attn.q_proj", "self_attn.k_norm", "mlp.gate", "mlp.experts.3.up_proj", "input_layernorm")
    ),
]


def read(text: str, **options: Any) -> MergekitMerge:
    return read_mergekit(dedent(text), "merge.yml", **options)


def root(merge: MergekitMerge) -> MethodNode:
    merge.recipe.check_patterns(TENSORS)
    assert Recipe.from_json(merge.recipe.to_json()) == merge.recipe
    assert isinstance(merge.recipe.root, MethodNode)
    return merge.recipe.root


def weights(merge: MergekitMerge) -> dict[str, float]:
    return {str(input.node): input.weight for input in root(merge).inputs}


LINEAR = """\
    models:
      - model: models/instruct
        parameters: {weight: 1.0}
      - model: models/reasoning
        parameters: {weight: 3}
    merge_method: linear
    dtype: bfloat16
    """


def test_a_linear_merge_is_normalized_and_the_recipe_shows_the_weights() -> None:
    merge = read(LINEAR)
    assert merge.recipe.to_dict() == {
        "version": 1,
        "dtype": "BF16",
        "root": {
            "method": "linear",
            "inputs": [
                {"node": {"model": "instruct"}, "weight": 0.25},
                {"node": {"model": "reasoning"}, "weight": 0.75},
            ],
            "overrides": [],
            "params": {},
        },
    }
    assert merge.models == {"instruct": Path("models/instruct"), "reasoning": Path("models/reasoning")}
    assert merge.tokenizer_from == "instruct"
    assert merge.notes == ()


def test_weights_that_sum_to_one_stay_as_they_are() -> None:
    merge = read(LINEAR.replace("1.0", "0.1").replace("3}", "0.9}") + "parameters: {normalize: false}\n")
    assert weights(merge) == {"instruct": 0.1, "reasoning": 0.9}


def test_a_weight_for_all_models_stands_in_for_those_without_one() -> None:
    merge = read("""\
        models:
          - model: a
          - model: b
            parameters: {weight: 0.5}
          - model: c
        merge_method: linear
        parameters: {weight: 0.25}
        """)
    assert weights(merge) == {"a": 0.25, "b": 0.5, "c": 0.25}


def test_the_base_comes_first_because_mergekit_takes_config_and_tokenizer_from_it() -> None:
    merge = read(LINEAR + "base_model: models/reasoning/\n")
    assert list(weights(merge)) == ["reasoning", "instruct"]
    assert merge.tokenizer_from == "reasoning"


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        ("", None),
        ("dtype: float32", "F32"),
        ("dtype: torch.float16", "F16"),
        ("dtype: float32\nout_dtype: bfloat16", "BF16"),
        ("out_dtype: float16", "F16"),
        ("dtype:", None),
    ],
)
def test_the_dtype_is_that_of_the_output(keys: str, dtype: str | None) -> None:
    assert read(dedent(LINEAR).replace("dtype: bfloat16\n", "") + keys).recipe.dtype == dtype


def test_slerp_goes_from_the_base_to_the_other_model() -> None:
    text = "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: b\nparameters: {t: 0.25}\n"
    assert weights(read(text)) == {"b": 0.75, "a": 0.25}
    assert weights(read(text.replace("{model: a}, {model: b}", "{model: a}"))) == {"b": 0.75, "a": 0.25}


def test_a_gradient_is_interpolated_over_the_layers() -> None:
    merge = read(
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: [0, 1, 0.5]}\n",
        layers=5,
    )
    # 0, 1, ½ at depths 0, ½, 1; the tensors outside the layers have the first value
    assert [root(merge).weights_of(f"model.layers.{i}.mlp.gate.weight")[1] for i in range(5)] == [0, 0.5, 1, 0.75, 0.5]
    assert [root(merge).weights_of(name)[1] for name in OUTSIDE] == [0, 0, 0]


def test_ten_layers_are_told_from_one() -> None:
    merge = read(
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: [0, 1]}\n", layers=12
    )
    assert isinstance(merge.recipe.root, MethodNode)
    for layer in range(12):
        found = merge.recipe.root.weights_of(f"model.layers.{layer}.mlp.experts.1.up_proj.weight")
        assert found[1] == pytest.approx(layer / 11)


def test_the_only_layer_has_the_last_value_of_a_gradient() -> None:
    merge = read(
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: [0.25, 1]}\n", layers=1
    )
    assert isinstance(merge.recipe.root, MethodNode)
    assert merge.recipe.root.weights_of("model.layers.0.mlp.gate.weight") == (0.0, 1.0)
    assert merge.recipe.root.weights_of("lm_head.weight") == (0.75, 0.25)


def test_a_gradient_of_equal_values_is_a_number() -> None:
    text = "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: [0.5, 0.5]}\n"
    assert root(read(text)).overrides == ()


def expected_value(setting: Any, name: str, layer: int | None) -> float:
    """What mergekit's documentation says of a setting, for one tensor; `layer` is None outside the layers."""
    if isinstance(setting, list) and isinstance(setting[0], dict):
        setting = next(c["value"] for c in setting if c.get("filter", "*") == "*" or c["filter"] in name)
    if not isinstance(setting, list):
        return float(setting)
    position = 0.0 if layer is None else layer * (len(setting) - 1) / (LAYERS - 1)
    below = min(int(position), len(setting) - 2)
    return float(setting[below] + (position - below) * (setting[below + 1] - setting[below]))


FILTERS: dict[str, list[Any]] = {
    "one number": [0.25],
    "gradient": [[0, 1]],
    "filters": [[{"filter": "self_attn", "value": 0.25}, {"filter": "mlp", "value": 0.75}, {"value": 0.5}]],
    "gradients by filter": [
        [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]
    ],
    "a gradient for the rest": [[{"filter": "mlp", "value": 0.125}, {"value": [0.25, 0.75]}]],
    "filters in each other": [
        [{"filter": "experts", "value": 1}, {"filter": "mlp", "value": 0.5}, {"filter": "*", "value": 0}]
    ],
    "layers by name": [[{"filter": "layers.3.", "value": 1}, {"filter": "layers.", "value": 0.5}, {"value": 0}]],
    "two models": [
        [{"filter": "mlp", "value": [0.2, 0.4]}, {"value": 1}],
        [{"filter": "mlp", "value": 0.3}, {"value": [1, 0, 0.5]}],
    ],
    "a number beside filters": [0.5, [{"filter": "norm", "value": 0.1}, {"value": 0.2}], [0.1, 0.9]],
}


@pytest.mark.parametrize("case", FILTERS)
def test_every_tensor_has_the_weights_that_mergekit_gives_it(case: str) -> None:
    """One model of weight 1 beside models whose weights depend on the tensor."""
    settings = [1.0, *FILTERS[case]]
    models = ", ".join(f"{{model: m{i}, parameters: {{weight: {yaml_of(s)}}}}}" for i, s in enumerate(settings))
    node = root(read(f"merge_method: linear\nmodels: [{models}]\n", layers=LAYERS))
    for name in TENSORS:
        layer = None if name in OUTSIDE else int(name.split(".")[2])
        values = [expected_value(setting, name, layer) for setting in settings]
        assert node.weights_of(name) == pytest.approx([value / sum(values) for value in values], abs=1e-12), name


def yaml_of(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_of, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_of(v)}" for key, v in value.items()) + "}"
    return f"'{value}'" if isinstance(value, str) else str(value)


def test_conditions_that_leave_tensors_fall_back_on_the_weight_for_all() -> None:
    merge = read("""\
        models:
          - model: a
            parameters: {weight: [{filter: mlp, value: 1}]}
          - model: b
            parameters: {weight: 1}
        merge_method: linear
        parameters: {weight: 3}
        """)
    assert root(merge).weights_of("model.layers.0.mlp.gate.weight") == (0.5, 0.5)
    assert root(merge).weights_of("lm_head.weight") == (0.75, 0.25)


def test_where_no_condition_of_a_model_holds_those_for_all_models_are_asked_in_turn() -> None:
    merge = read("""\
        models:
          - model: a
            parameters: {weight: [{filter: mlp, value: 1}]}
          - model: b
            parameters: {weight: 1}
        merge_method: linear
        parameters: {weight: [{filter: norm, value: 3}, {value: 0.25}]}
        """)
    assert root(merge).weights_of("model.layers.0.mlp.gate.weight") == (0.5, 0.5)
    assert root(merge).weights_of("model.norm.weight") == (0.75, 0.25)
    assert root(merge).weights_of("lm_head.weight") == (0.2, 0.8)


def test_a_filter_means_its_characters() -> None:
    merge = read("""\
        models: [{model: a}, {model: b}]
        base_model: a
        merge_method: slerp
        parameters: {t: [{filter: "[q]?", value: 1}, {value: 0}]}
        """)
    assert isinstance(merge.recipe.root, MethodNode)
    assert [merge.recipe.root.weights_of(name)[1] for name in ("w.[q]?.x", "w.q1.x", "w.[q]1")] == [1, 0, 0]


TASK = """\
    models:
      - model: base
      - model: a
        parameters: {weight: 0.5, density: 0.25}
      - model: b
        parameters: {weight: 1.5}
    base_model: base
    merge_method: METHOD
    parameters: {lambda: 3, PARAMETERS}
    """


def task(method: str, parameters: str = "", text: str = TASK, **options: Any) -> MergekitMerge:
    if method == "task_arithmetic":
        text = text.replace(", density: 0.25", "")
    return read(
        text.replace("METHOD", method).replace(", PARAMETERS", f", {parameters}" if parameters else ""), **options
    )


@pytest.mark.parametrize(
    ("method", "parameters", "params"),
    [
        # λ Σ w_i τ_i = 3 · 2 · (¼ τ_a + ¾ τ_b)
        ("task_arithmetic", "", {"scale": 6.0}),
        ("task_arithmetic", "normalize: true", {"scale": 3.0}),
        ("ties", "", {"scale": 3.0, "density": [0.25, 1.0], "normalize": True}),
        ("ties", "normalize: false", {"scale": 6.0, "density": [0.25, 1.0], "normalize": False}),
        ("dare_linear", "density: 0.25", {"scale": 6.0, "density": 0.25, "seed": 0, "rescale": True}),
        ("dare_linear", "normalize: true", {"scale": 3.0, "density": [0.25, 1.0], "seed": 0, "rescale": True}),
        (
            "dare_ties",
            "rescale: false",
            {"scale": 6.0, "density": [0.25, 1.0], "seed": 0, "rescale": False, "normalize": False},
        ),
        (
            "dare_ties",
            "normalize: true",
            {"scale": 3.0, "density": [0.25, 1.0], "seed": 0, "rescale": True, "normalize": True},
        ),
    ],
)
def test_task_vectors_are_scaled_by_lambda_and_the_sum_of_weights(
    method: str, parameters: str, params: dict[str, Any]
) -> None:
    merge = task(method, parameters)
    assert root(merge).method == method
    assert weights(merge) == {"base": 0.0, "a": 0.25, "b": 0.75}
    assert root(merge).params == params


def test_the_seed_is_an_argument_and_a_note_says_what_is_another_way() -> None:
    merge = task("dare_ties", "int8_mask: true", seed=7)
    assert root(merge).params["seed"] == 7
    assert merge.notes == (
        "merge.yml:9: parameters.int8_mask: ignored, it changes memory only",
        (
            "merge.yml:8: merge_method: what dare_ties keeps is divided by the density (Yu et al. 2024), "
            "where mergekit restores the sum of magnitudes; the masks are those of seed 7"
        ),
    )


def test_one_slice_with_all_layers_is_the_whole_models() -> None:
    text = """\
        slices:
          - sources:
              - model: a
                layer_range: [0, 5]
              - model: b
                layer_range: [0, 5]
        merge_method: slerp
        base_model: a
        parameters: {t: 0.5}
        """
    assert weights(read(text, layers=5)) == {"a": 0.5, "b": 0.5}
    with pytest.raises(RecipeError, match=r"^merge.yml:4: slices\[0\].sources\[0\].layer_range: layers cannot be left"):
        read(text, layers=6)
    with pytest.raises(RecipeError, match="a slice needs the number of layers, which is not known"):
        read(text)


def test_models_of_one_name_are_numbered() -> None:
    text = "models: [{model: x/sft}, {model: y/sft/}, {model: sft}]\nmerge_method: linear\nparameters: {weight: 1}\n"
    assert read(text).models == {"sft": Path("x/sft"), "sft_2": Path("y/sft"), "sft_3": Path("sft")}


def test_models_are_found_without_the_number_of_layers() -> None:
    text = "models: [{model: x/a}]\nbase_model: x/b\nmerge_method: slerp\nparameters: {t: [0, 1]}\n"
    assert mergekit_models(text, "merge.yml") == {"b": Path("x/b"), "a": Path("x/a")}


@pytest.mark.parametrize(
    ("keys", "tokenizer"),
    [
        ("base_model: models/reasoning\ntokenizer_source: base", ("reasoning", Path("models/reasoning"))),
        ("tokenizer_source: models/reasoning", ("reasoning", Path("models/reasoning"))),
        ("tokenizer: {source: models/reasoning}", ("reasoning", Path("models/reasoning"))),
        ("tokenizer_source: other/instruct", ("instruct_2", Path("other/instruct"))),
    ],
)
def test_the_tokenizer_comes_from_the_base_or_from_the_named_model(keys: str, tokenizer: tuple[str, Path]) -> None:
    merge = read(dedent(LINEAR) + keys)
    assert (merge.tokenizer_from, merge.models[merge.tokenizer_from]) == tokenizer
    assert set(merge.recipe.models) == {"instruct", "reasoning"}


def test_one_number_may_be_written_without_a_point() -> None:
    assert weights(read(LINEAR.replace("3}", "3e-3}").replace("1.0", "1e-3"))) == {"instruct": 0.25, "reasoning": 0.75}
