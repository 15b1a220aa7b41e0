"""Tensors that only one model has: a tied head stored twice, packed experts, and what is plainly missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bai_pipeline.checkpoints import CHUNK_ELEMENTS, Checkpoint, compare

MakeCheckpoint = Callable[..., Path]
Array = np.ndarray[Any, np.dtype[Any]]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS = CHUNK_ELEMENTS // 8 + 3
"""More than a chunk at eight columns."""


@pytest.fixture
def model(make_checkpoint: MakeCheckpoint) -> Callable[..., Checkpoint]:
    """model(name, head=, tied=): an embedding, the head when one is given, `tie_word_embeddings` when it is given."""

    def make(name: str, head: Array | None = None, tied: bool | None = None, **content: Array) -> Checkpoint:
        tensors = {EMBEDDING: embedding(), **content} | ({} if head is None else {HEAD: head})
        config = {"vocab_size": ROWS} | ({} if tied is None else {"tie_word_embeddings": tied})
        return Checkpoint.open(make_checkpoint(name, content=tensors, config=config, vocab={"a": 0}))

    return make


MakeModel = Callable[..., Checkpoint]


def embedding() -> Array:
    return np.random.default_rng(0).standard_normal((ROWS, 8)).astype(np.float32)


def changed_at_the_end() -> Array:
    head = embedding()
    head[-1, -1] += 1.0
    return head


@pytest.mark.parametrize("tied", [True, None])
def test_a_head_that_repeats_the_embedding_is_left_out(model: MakeModel, tied: bool | None) -> None:
    models = {"base": model("base", tied=tied), "sft": model("sft", embedding(), tied)}
    report = compare(models)
    assert report.differences == ()
    assert report.left_out == {"sft": (HEAD,)}
    assert report.notes == (
        f"tensor {HEAD} of sft repeats {EMBEDDING} (tied, and stored once in base): it is left out",
    )


@pytest.mark.parametrize("tied", [True, None])
def test_a_head_of_the_first_model_is_left_out_where_its_config_works_without(
    model: MakeModel, tied: bool | None
) -> None:
    models = {"base": model("base", embedding(), tied), "sft": model("sft", None, tied)}
    assert compare(models).left_out == {"base": (HEAD,)}


def test_a_first_model_that_may_need_its_head_keeps_it(model: MakeModel) -> None:
    report = compare({"base": model("base", embedding()), "sft": model("sft", None, True)})
    assert report.differences == (f"tensor {HEAD} is missing in sft (it is in base, model.safetensors)",)
    assert report.left_out == {}


@pytest.mark.parametrize("head", [changed_at_the_end(), embedding().view(np.int32)], ids=["value", "dtype"])
def test_a_head_of_its_own_is_untied(model: MakeModel, head: Array) -> None:
    report = compare({"base": model("base", tied=True), "sft": model("sft", head, True)})
    (difference,) = report.differences
    assert difference == (
        f"tensor {HEAD} of sft is not its {EMBEDDING}: the head is untied there, and tied in base, where there is no "
        "such tensor"
    )
    assert report.left_out == {}


def test_an_untied_model_without_a_head_has_a_tensor_missing(model: MakeModel) -> None:
    report = compare({"base": model("base", tied=False), "sft": model("sft", embedding(), False)})
    assert report.differences == (f"tensor {HEAD} is missing in base (it is in sft, model.safetensors)",)


def test_one_untied_model_without_a_head_is_enough(model: MakeModel) -> None:
    models = {"base": model("base"), "instruct": model("instruct", None, False), "sft": model("sft", embedding())}
    report = compare(models)
    assert report.differences == (f"tensor {HEAD} is missing in base (it is in sft, model.safetensors)",)
    assert report.left_out == {}


def test_a_head_that_every_model_stores_is_a_tensor_like_others(model: MakeModel) -> None:
    report = compare({"base": model("base", embedding(), True), "sft": model("sft", changed_at_the_end(), True)})
    assert (report.differences, report.notes, report.left_out) == ((), (), {})


def test_a_repeated_head_of_a_model_that_is_not_merged_matters_to_nobody(model: MakeModel) -> None:
    models = {"base": model("base", tied=True), "chat": model("chat", embedding(), True)}
    report = compare(models, merged=["base"])
    assert (report.differences, report.notes, report.left_out) == ((), (), {})


def test_a_model_that_is_not_merged_leaves_no_head_of_the_others_out(model: MakeModel) -> None:
    models = {name: model(name, embedding(), True) for name in ("base", "sft")} | {"chat": model("chat", None, True)}
    report = compare(models, merged=["base", "sft"])
    assert (report.differences, report.notes, report.left_out) == ((), (), {})


def experts(packed: bool, layers: int = 12, count: int = 4) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for layer in range(layers):
        place = f"model.layers.{layer}.mlp.experts"
        if packed:
            found[f"{place}.gate_up_proj"] = np.zeros((count, 4, 3), dtype=np.float32)
            found[f"{place}.down_proj"] = np.zeros((count, 3, 2), dtype=np.float32)
            continue
        for expert in range(count):
            for name, shape in (("gate_proj", (2, 3)), ("up_proj", (2, 3)), ("down_proj", (3, 2))):
                found[f"{place}.{expert}.{name}.weight"] = np.zeros(shape, dtype=np.float32)
    return found


@pytest.mark.parametrize("packed_in", ["base", "sft"])
def test_packed_experts_beside_single_ones_are_one_difference(model: MakeModel, packed_in: str) -> None:
    models = {name: model(name, **experts(name == packed_in)) for name in ("base", "sft")}
    (single_in,) = models.keys() - {packed_in}
    (difference,) = compare(models).differences
    assert difference.startswith(
        f"experts are packed in {packed_in} (model.layers.0.mlp.experts.down_proj) and one tensor each in {single_in} "
        "(model.layers.0.mlp.experts.0.down_proj.weight): save one of them anew; "
    )


def test_what_else_is_missing_is_listed_beside_packed_experts(model: MakeModel) -> None:
    shared = {"model.layers.0.mlp.shared_experts.up_proj.weight": np.zeros(2, dtype=np.float32)}
    models = {"base": model("base", **experts(True), **shared), "sft": model("sft", **experts(False))}
    assert compare(models).differences[1:] == (
        "tensor model.layers.0.mlp.shared_experts.up_proj.weight is missing in sft (it is in base, model.safetensors)",
    )


def test_experts_that_are_packed_everywhere_fit(model: MakeModel) -> None:
    models = {name: model(name, **experts(True)) for name in ("base", "sft")}
    assert compare(models).differences == ()
