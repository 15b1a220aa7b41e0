"""Fit: every difference at once; what does not matter is a note."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bai_pipeline.checkpoints import Checkpoint, FitReport, check_fit, compare
from bai_pipeline.errors import FitError

MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
CONFIG = {"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "vocab_size": 8, "num_experts": 4}
VOCAB = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4}


def three_tensors(value: float = 0.0, **changed: Any) -> Tensors:
    content = {name: np.full(3, value, dtype=np.float32) for name in ("gate", "norm", "scale")}
    return {name: array for name, array in (content | changed).items() if array is not None}


def compared(make_checkpoint: MakeCheckpoint, **other: Any) -> FitReport:
    content = three_tensors()
    sft = make_checkpoint("sft", **({"content": content} | other))
    models = {"base_model": make_checkpoint("base", content=content), "instruct_sft": sft}
    return compare({name: Checkpoint.open(path) for name, path in models.items()})


def test_equal_architectures_fit_in_any_shard_layout(make_checkpoint: MakeCheckpoint) -> None:
    shards = [["scale"], ["gate", "norm"]]
    assert compared(make_checkpoint, content=three_tensors(1.0), shards=shards) == FitReport((), ())


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            {"content": three_tensors(scale=None)},
            "tensor scale is missing in instruct_sft (it is in base_model, model.safetensors)",
        ),
        (
            {"content": three_tensors(extra=np.zeros(1, dtype=np.float32))},
            "tensor extra is missing in base_model (it is in instruct_sft, model.safetensors)",
        ),
        (
            {"content": three_tensors(norm=np.zeros(4, dtype=np.float32))},
            "tensor norm has shape [3] in base_model, [4] in instruct_sft",
        ),
        (
            {"content": three_tensors(norm=np.zeros(3, dtype=np.int32))},
            "tensor norm has dtype F32 in base_model, I32 in instruct_sft",
        ),
        ({"config": CONFIG | {"num_experts": 8}}, "config.json: num_experts is 4 in base_model, 8 in instruct_sft"),
        (
            {"config": CONFIG | {"model_type": "llama"}},
            "config.json: model_type is 'olmoe' in base_model, 'llama' in instruct_sft",
        ),
        ({"vocab": VOCAB | {"b": 5}}, "tokenizer: token 'b' is 4 in base_model, 5 in instruct_sft"),
        (
            {"vocab": {("c" if k == "b" else k): v for k, v in VOCAB.items()}},
            "tokenizer: id 4 is 'b' in base_model, 'c' in instruct_sft",
        ),
        ({"vocab": VOCAB | {"z": 8}}, "tokenizer: token 'z' of instruct_sft has id 8, but vocab_size is 8"),
    ],
)
def test_a_difference_is_named(make_checkpoint: MakeCheckpoint, other: dict[str, Any], difference: str) -> None:
    assert compared(make_checkpoint, **other).differences == (difference,)


def test_all_differences_come_at_once_and_long_lists_are_cut(make_checkpoint: MakeCheckpoint) -> None:
    many = {f"weight_{n:03}": np.zeros(1, dtype=np.float32) for n in range(100)}
    models = {
        "base_model": Checkpoint.open(make_checkpoint("base", content=three_tensors())),
        "sft": Checkpoint.open(make_checkpoint("sft", content=many, config=CONFIG | {"num_experts": 8})),
    }
    with pytest.raises(FitError) as caught:
        check_fit(models)
    message = str(caught.value)
    assert "104 difference(s)" in message
    assert "num_experts is 4 in base_model, 8 in sft" in message
    assert "tensor gate is missing in sft" in message
    assert message.endswith("… and 74 more")


def test_what_differs_in_every_layer_is_one_line(make_checkpoint: MakeCheckpoint) -> None:
    def layers(experts: int, count: int) -> Tensors:
        routers = {f"layers.{n}.gate.weight": np.zeros((experts, 2), dtype=np.float32) for n in range(9)}
        names = [f"layers.{n}.experts.{expert}.up.weight" for n in range(9) for expert in range(count)]
        return routers | {name: np.zeros(2, dtype=np.float32) for name in names}

    base, sft = make_checkpoint("base", content=layers(2, 2)), make_checkpoint("sft", content=layers(4, 4))
    assert compare({"base": Checkpoint.open(base), "sft": Checkpoint.open(sft)}).differences == (
        (
            "tensor layers.0.experts.2.up.weight is missing in base (it is in sft, model.safetensors); likewise 17 "
            "more (layers.*.experts.*.up.weight)"
        ),
        "tensor layers.0.gate.weight has shape [2, 2] in base, [4, 2] in sft; likewise 8 more (layers.*.gate.weight)",
    )


@pytest.mark.parametrize(
    ("other", "note"),
    [
        ({"chat_template": "{{ messages }}"}, "tokenizer: the chat templates of base_model and instruct_sft differ"),
        ({"eos_token": "<eos>"}, "tokenizer: eos_token is None in base_model, '<eos>' in instruct_sft"),
        ({"eos_token": {"content": "<e>"}}, "tokenizer: eos_token is None in base_model, '<e>' in instruct_sft"),
        ({"vocab": VOCAB | {"<think>": 5}}, "tokenizer: 1 tokens of instruct_sft are not in base_model: '<think>'"),
        ({"vocab": None}, "tokenizer: none readable in instruct_sft; its vocabulary was not compared"),
        (
            {"content": three_tensors(norm=np.zeros(3, dtype=np.float16))},
            "tensor norm has dtype F32 in base_model, F16 in instruct_sft",
        ),
        (
            {"config": CONFIG | {"eos_token_id": 2}},
            "config.json: eos_token_id is absent in base_model, 2 in instruct_sft",
        ),
        (
            {"config": CONFIG | {"attention_bias": False}},
            "config.json: attention_bias is absent in base_model, False in instruct_sft",
        ),
    ],
)
def test_what_leaves_the_weights_their_meaning_is_a_note(
    make_checkpoint: MakeCheckpoint, other: dict[str, Any], note: str
) -> None:
    assert compared(make_checkpoint, **other) == FitReport((), (note,))


def test_a_whole_model_in_another_float_is_one_note(make_checkpoint: MakeCheckpoint) -> None:
    wide = {f"layers.{n}.{name}": np.zeros(2, dtype=np.float32) for n in range(4) for name in ("up", "down")}
    narrow = {name: array.astype(np.float16) for name, array in wide.items()}
    paths = {"base": make_checkpoint("base", content=wide), "sft": make_checkpoint("sft", content=narrow)}
    (note,) = check_fit({name: Checkpoint.open(path) for name, path in paths.items()}).notes
    assert note.startswith("tensor layers.")
    assert note.endswith("has dtype F32 in base, F16 in sft; likewise 7 more (F32 and F16)")


def test_generation_configs_that_differ_are_notes(make_checkpoint: MakeCheckpoint) -> None:
    models = {}
    for name, generation in (
        ("base", {"eos_token_id": 2, "transformers_version": "4.57.0"}),
        ("sft", {"eos_token_id": [2, 4], "temperature": 0.6, "transformers_version": "5.0.0"}),
    ):
        directory = make_checkpoint(name)
        (directory / "generation_config.json").write_text(json.dumps(generation))
        models[name] = Checkpoint.open(directory)
    assert check_fit(models).notes == (
        "generation_config.json: eos_token_id is 2 in base, [2, 4] in sft",
        "generation_config.json: temperature is absent in base, 0.6 in sft",
    )


def test_all_spellings_of_the_number_of_experts_are_compared(make_checkpoint: MakeCheckpoint) -> None:
    old = CONFIG | {"num_experts": 4}
    new = {key: value for key, value in CONFIG.items() if key != "num_experts"} | {"num_local_experts": 8}
    paths = {"a": make_checkpoint("a", config=old), "b": make_checkpoint("b", config=new)}
    report = compare({name: Checkpoint.open(path) for name, path in paths.items()})
    assert report.differences == ("config.json: num_experts is 4 in a, 8 in b",)


def test_the_config_of_a_nested_language_model_is_compared(make_checkpoint: MakeCheckpoint) -> None:
    paths = {
        name: make_checkpoint(name, config={"model_type": "gemma3", "text_config": {"vocab_size": 8, "head_dim": size}})
        for name, size in (("a", 4), ("b", 8))
    }
    report = compare({name: Checkpoint.open(path) for name, path in paths.items()})
    assert report.differences == ("config.json: head_dim is 4 in a, 8 in b",)
    assert report.vocabulary_tensors == ("embed.weight",)


def test_old_and_new_spellings_of_rope_are_the_same(make_checkpoint: MakeCheckpoint) -> None:
    old = CONFIG | {"rope_theta": 10000.0, "rope_scaling": None}
    new = CONFIG | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    other = CONFIG | {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
    paths = {name: make_checkpoint(name, config=config) for name, config in [("a", old), ("b", new), ("c", other)]}
    report = compare({name: Checkpoint.open(path) for name, path in paths.items()})
    assert report.differences == ("config.json: rope_theta is 10000.0 in a, 500000.0 in c",)
    assert report.notes == ()
