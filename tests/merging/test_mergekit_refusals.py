"""What of mergekit's configurations a recipe cannot say is refused, by key and line."""

from textwrap import dedent

import pytest

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.mergekit_yaml import read_mergekit

PAIR = "models: [{model: a}, {model: b}]\n"
WEIGHED = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: W}}]\nmerge_method: linear\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": expected a mapping, the file is empty"),
        ("a: [", " is not valid YAML: "),
        ("[" * 5000, " is not valid YAML: "),
        ("- a", ":1: expected a mapping, got a list; no checkpoint was written"),
        ("!!python/object/apply:os.system [ls]", ":1: expected a mapping, got a list"),
        ("!!python/object:os.system {a: 1}", ":1: expected a mapping, got a mapping"),
        (PAIR, ":1: merge_method is missing; no checkpoint was written"),
        (
            PAIR + "merge_method: karcher",
            ":2: merge_method: expected one of linear, slerp, task_arithmetic, ties, dare_linear, dare_ties, got",
        ),
        (PAIR + "merge_method: !!python/name:os.system ''", ":2: merge_method: expected text, got ''"),
        (PAIR + "merge_method: linear\nchat_template: auto", ":3: chat_template: this cannot be carried over"),
        (PAIR + "merge_method: linear\nmodules: {}", ":3: modules: this cannot be carried over"),
        (PAIR + "merge_method: linear\n<<: {}", ":3: <<: this cannot be carried over"),
        (PAIR + "merge_method: linear\nmerge_method: ties", ":3: merge_method: this key appears twice"),
        ("merge_method: linear", ":1: expected either models or slices"),
        (PAIR + "merge_method: linear\nslices: []", ":1: expected either models or slices"),
        ("models: []\nmerge_method: linear", ":1: models: expected at least one model, there are none"),
        ("merge_method: linear\nmodels:\n  - model: a\n  - model: a/", ":4: models[1]: the model a appears twice"),
        ("merge_method: linear\nmodels:\n  - parameters: {}", ":3: models[0]: model is missing"),
        (
            "merge_method: linear\nmodels:\n  - model: a\n    layer_range: [0, 1]",
            ":4: models[0].layer_range: this cannot be carried over, expected one of model, parameters",
        ),
        ("merge_method: linear\nmodels:\n  - model: a+lora", ":3: models[0].model: adapters (+) and revisions (@)"),
        (
            "merge_method: linear\nmodels:\n  - model: {path: a}",
            ":3: models[0].model: expected the directory of a model",
        ),
        (
            "merge_method: linear\nslices:\n  - sources: []\n  - sources: []",
            ":2: slices: layers cannot be stacked, expected one slice with all layers of every model",
        ),
        (
            "merge_method: linear\nslices:\n  - sources:\n      - model: a",
            ":4: slices[0].sources[0]: layer_range is missi",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0]}]}]",
            ":2: slices[0].sources[0].layer_range: expected the first layer and the one after the last, got a list",
        ),
        (PAIR + "merge_method: linear", ":1: models[0]: weight is missing"),
        (WEIGHED + "base_model: c", ":3: base_model: weight is missing"),
        (
            WEIGHED.replace("W", "-0.5"),
            ":1: models[0].parameters.weight: weights must be non-negative and not all 0, got 1, -0.5 for all other",
        ),
        (
            WEIGHED.replace("W", "'1'"),
            ":1: models[1].parameters.weight: expected a number, a list of numbers or a list",
        ),
        (WEIGHED.replace("W", "true"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", "010"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", ".inf"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", "1e999"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", "!!int x"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", "[]"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (WEIGHED.replace("W", "[a]"), ":1: models[1].parameters.weight[0]: expected a number, got 'a'"),
        (WEIGHED.replace("W", "[[1]]"), ":1: models[1].parameters.weight[0]: expected a number, got a list"),
        (WEIGHED.replace("W", "{value: 1}"), ":1: models[1].parameters.weight: expected a number, a list of numbers"),
        (
            WEIGHED.replace("W", "[{filter: mlp, value: 1}]"),
            ":1: models[1].parameters.weight: expected a last condition",
        ),
        (WEIGHED.replace("W", "[{filter: mlp}]"), ":1: models[1].parameters.weight[0]: value is missing"),
        (
            WEIGHED.replace("W", "[{filter: '', value: 1}]"),
            ":1: models[1].parameters.weight[0].filter: expected text of",
        ),
        (
            WEIGHED.replace("W", "[{value: 1}, {filter: mlp, value: 1}]"),
            ":1: models[1].parameters.weight[1]: this is never reached",
        ),
        (WEIGHED.replace("W", "[1, 0]"), ":1: models[1].parameters.weight: a gradient needs the number of layers"),
        (
            WEIGHED.replace("W", "2") + "parameters: {normalize: false}",
            ":3: parameters.normalize: without it weights must sum to one, got 3",
        ),
        (WEIGHED.replace("W", "2") + "parameters: {normalize: 0}", ":3: parameters.normalize: expected true or false"),
        (WEIGHED.replace("W", "2") + "parameters: {lambda: 1}", ":3: parameters.lambda: this cannot be carried over"),
        (
            WEIGHED.replace("W", "2") + "dtype: int8",
            ":3: dtype: expected one of float32, bfloat16, float16, got 'int8'",
        ),
        (WEIGHED.replace("W", "2") + "tokenizer_source: union", ":3: tokenizer_source: vocabularies are not united"),
        (WEIGHED.replace("W", "2") + "tokenizer_source: base", ":3: tokenizer_source: base_model is missing"),
        (WEIGHED.replace("W", "2") + "tokenizer: {tokens: {}}", ":3: tokenizer.tokens: this cannot be carried over"),
        (PAIR + "merge_method: slerp\nparameters: {t: 0.5}", ":2: merge_method: base_model is missing"),
        (PAIR + "merge_method: slerp\nbase_model: a", ":2: merge_method: the parameter t is missing"),
        (
            PAIR + "merge_method: slerp\nbase_model: c\nparameters: {t: 0.5}",
            ":2: merge_method: slerp needs base_model and one other model, got 3 in all",
        ),
        (
            PAIR + "merge_method: slerp\nbase_model: a\nparameters: {t: [0, 1.5]}",
            ":4: parameters.t: t must be between 0 and 1, got 0.0, 1.5",
        ),
        (WEIGHED.replace("linear", "ties"), ":2: merge_method: base_model is missing"),
        (
            WEIGHED.replace("linear", "ties") + "base_model: a",
            ":1: models[0].parameters.weight: the base has no task vector, expected no parameters of its own",
        ),
        (
            "models: [{model: a}]\nmerge_method: ties\nbase_model: a",
            ":2: merge_method: expected a model beside base_model",
        ),
        (
            WEIGHED.replace("linear", "ties").replace("W", "1, density: [1, 0.5]") + "base_model: c",
            ":1: models[1].parameters.density: expected a number above 0 and at most 1 (one that changes with depth or",
        ),
        (
            WEIGHED.replace("linear", "ties").replace("W", "1") + "base_model: c\nparameters: {density: 0}",
            ":4: parameters.density: expected a number above 0 and at most 1",
        ),
        (
            WEIGHED.replace("linear", "task_arithmetic").replace("W", "1") + "base_model: c\nparameters: {lambda: -1}",
            ":4: parameters.lambda: expected a positive number, got '-1'",
        ),
        (
            WEIGHED.replace("linear", "task_arithmetic").replace("W", "1")
            + "base_model: c\nparameters: {density: 0.5}",
            ":4: parameters.density: this cannot be carried over",
        ),
        (
            WEIGHED.replace("linear", "task_arithmetic").replace("W", "[{filter: mlp, value: 1}, {value: 0}]")
            + "base_model: c",
            ":1: models[0].parameters.weight: without normalize, expected weights with one sum for all tensors, got",
        ),
        (
            WEIGHED.replace("linear", "dare_ties").replace("W", "1") + "base_model: c\nparameters: {lambda: 1e300}",
            ":2: merge_method: scale: expected a positive, finite number, got 2e+300",
        ),
    ],
)
def test_what_a_recipe_cannot_say_is_refused_with_its_key_and_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_mergekit(text, "merge.yml")
    assert str(caught.value).startswith("merge.yml" + message)


@pytest.mark.parametrize("text", ["mlp.", ".mlp", "3", "layers.1", "model", "1.mlp", "."])
def test_with_a_gradient_a_filter_must_stand_after_the_number_of_the_layer(text: str) -> None:
    config = f"""\
        models: [{{model: a}}, {{model: b}}]
        merge_method: slerp
        base_model: a
        parameters: {{t: [{{filter: "{text}", value: [0, 1]}}, {{value: 0}}]}}
        """
    if text == "mlp.":
        read_mergekit(dedent(config), "merge.yml", layers=4)
        return
    with pytest.raises(RecipeError, match=r"^merge.yml:4: parameters.t\[0\].value: with a gradient, expected a filter"):
        read_mergekit(dedent(config), "merge.yml", layers=4)


def test_different_filters_for_two_models_are_refused_because_a_tensor_may_contain_both() -> None:
    text = """\
        merge_method: linear
        models:
          - model: a
            parameters: {weight: [{filter: mlp, value: 1}, {value: 2}]}
          - model: b
            parameters: {weight: [{filter: gate, value: 1}, {value: 2}]}
        """
    with pytest.raises(RecipeError) as caught:
        read_mergekit(dedent(text), "merge.yml")
    assert str(caught.value) == (
        "merge.yml:6: models[1].parameters.weight[0].value: expected the same filters in the same order for all "
        "models, got gate here and mlp at merge.yml:4: models[0].parameters.weight[0].value; no checkpoint was written"
    )


def test_aliases_of_aliases_take_no_time() -> None:
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    with pytest.raises(RecipeError, match="this cannot be carried over"):
        read_mergekit(bomb, "merge.yml")
    nested = "[" * 60 + "1" + "]" * 60
    with pytest.raises(RecipeError, match="expected a number, got a list"):
        read_mergekit(WEIGHED.replace("W", nested), "merge.yml")
    with pytest.raises(RecipeError, match="expected a mapping, got a list"):
        read_mergekit("merge_method: linear\nmodels: &m [*m]\n", "merge.yml")
