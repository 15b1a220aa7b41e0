"""What cannot be merged: every fault names its place, and no output is left."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bai_pipeline.checkpoints import CHUNK_ELEMENTS, Checkpoint, describe, write_manifest
from bai_pipeline.errors import BaiPipelineError, CheckpointError, FitError, RecipeError
from bai_pipeline.merging import Recipe, bai_recipe, stage_1_recipe
from bai_pipeline.merging.engine import merge, merge_to
from bai_pipeline.progress import SilentReporter

MakeModel = Callable[..., Path]
Damage = Callable[[Path], object]

RECIPE = bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5})
LAYOUT = [["scale", "norm"], ["embed", "experts.1", "experts.0"]]
SECOND = "model-00002-of-00002.safetensors"


def edit_header(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of model.safetensors and nothing else."""
    file = path / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    edit(header)
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])


def edit_index(path: Path, tensor: str, shard: str) -> None:
    file = path / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"][tensor] = shard
    file.write_text(json.dumps(index))


def truncate(path: Path) -> None:
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size - 10)


def set_header_length(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**40) + file.read_bytes()[8:])


def move_out_and_link(path: Path) -> None:
    outside = path.parent / "outside.safetensors"
    (path / "model.safetensors").rename(outside)
    (path / "model.safetensors").symlink_to(outside)


def leave_a_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def damage_with_manifest(path: Path) -> None:
    checkpoint = Checkpoint.open(path)
    write_manifest(path, describe(checkpoint, code_version="1"))
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[checkpoint.tensors["norm"].start] ^= 1
    file.write_bytes(content)


def edit_config_with_manifest(path: Path) -> None:
    write_manifest(path, describe(Checkpoint.open(path), code_version="1"))
    (path / "config.json").write_text((path / "config.json").read_text() + "\n")


def remove_tokenizer(path: Path) -> None:
    for file in [*path.glob("tokenizer*"), path / "chat_template.jinja"]:
        file.unlink()


NAN, INFINITE = torch.zeros(8, 6).bfloat16(), torch.zeros(8, 6).bfloat16()
NAN[3, 1], INFINITE[7, 5] = float("nan"), -float("inf")

# what is wrong, how reasoning_sft is made, what is done to it then, the error and what its message holds
CASES: list[tuple[str, dict[str, Any], Damage | None, type[BaiPipelineError], list[str]]] = [
    ("a truncated file", {}, truncate, CheckpointError, ["model.safetensors", "tensor", "out of range"]),
    (
        "a bad header length",
        {},
        set_header_length,
        CheckpointError,
        ["model.safetensors", "header length is 1099511627776"],
    ),
    (
        "overlapping offsets",
        {},
        lambda path: edit_header(
            path, lambda h: h["experts.0"].update(data_offsets=h["embed"]["data_offsets"], shape=[16, 8])
        ),
        CheckpointError,
        ["model.safetensors", "tensor experts.0", "overlap"],
    ),
    (
        "offsets out of range",
        {},
        lambda path: edit_header(path, lambda h: h["scale"].update(data_offsets=[10**6, 10**6 + 2])),
        CheckpointError,
        ["model.safetensors", "tensor scale", "data_offsets [1000000, 1000002]"],
    ),
    (
        "a dtype of another size",
        {},
        lambda path: edit_header(path, lambda h: h["norm"].update(dtype="F32")),
        CheckpointError,
        ["model.safetensors", "tensor norm", "F32 of shape [8] takes 32 bytes"],
    ),
    (
        "an unknown dtype",
        {},
        lambda path: edit_header(path, lambda h: h["norm"].update(dtype="Q8")),
        CheckpointError,
        ["tensor norm", "unknown dtype 'Q8'"],
    ),
    (
        "a missing shard",
        {"shards": LAYOUT},
        lambda path: (path / SECOND).unlink(),
        CheckpointError,
        [SECOND, "is missing"],
    ),
    (
        "a tensor missing in its shard",
        {"shards": LAYOUT},
        lambda path: edit_index(path, "router", SECOND),
        CheckpointError,
        [f"{SECOND}: tensor router is missing"],
    ),
    (
        "a shard outside",
        {"shards": LAYOUT},
        lambda path: edit_index(path, "norm", "../base_model/model.safetensors"),
        CheckpointError,
        ["model.safetensors.index.json", "tensor norm", "'../base_model/model.safetensors'"],
    ),
    ("a link outside", {}, move_out_and_link, CheckpointError, ["model.safetensors", "leads out of the checkpoint"]),
    ("pickles only", {}, leave_a_pickle, CheckpointError, ["pytorch_model.bin", "never loaded"]),
    ("no config", {}, lambda path: (path / "config.json").unlink(), CheckpointError, ["config.json"]),
    (
        "a NaN",
        {"changes": {"experts.1": NAN}},
        None,
        CheckpointError,
        ["model.safetensors", "tensor experts.1 of reasoning_sft", "flat position 19"],
    ),
    (
        "an infinity",
        {"changes": {"experts.1": INFINITE}},
        None,
        CheckpointError,
        ["model.safetensors", "tensor experts.1 of reasoning_sft", "flat position 47"],
    ),
    (
        "another shape",
        {"changes": {"norm": torch.zeros(9).bfloat16()}},
        None,
        FitError,
        ["tensor norm has shape [8] in base_model, [9] in reasoning_sft"],
    ),
    (
        "another dtype",
        {"dtype": torch.float16},
        None,
        FitError,
        ["tensor norm has dtype BF16 in base_model, F16 in reas"],
    ),
    ("a tensor less", {"changes": {"scale": None}}, None, FitError, ["tensor scale is missing in reasoning_sft"]),
    ("a tensor more", {"changes": {"bias": torch.zeros(2)}}, None, FitError, ["tensor bias is missing in base_model"]),
    (
        "a token with another id",
        {"vocab": {"<pad>": 0, "a": 7}},
        None,
        FitError,
        ["token 'a' is 3 in base_model, 7 in"],
    ),
    (
        "an id with another token",
        {"vocab": {"<pad>": 0, "c": 3}},
        None,
        FitError,
        ["id 3 is 'a' in base_model, 'c' in"],
    ),
    (
        "more experts",
        {"config": {"model_type": "olmoe", "vocab_size": 16, "num_experts": 3}},
        None,
        FitError,
        ["config.json: num_experts is 2 in base_model, 3 in reasoning_sft"],
    ),
    (
        "a damaged tensor",
        {},
        damage_with_manifest,
        CheckpointError,
        ["tensor norm of reasoning_sft", "bai_manifest.json"],
    ),
    (
        "a changed config",
        {},
        edit_config_with_manifest,
        CheckpointError,
        ["config or tokenizer files of reasoning_sft are not what bai_manifest.json recorded"],
    ),
    (
        "no tokenizer to copy",
        {},
        remove_tokenizer,
        CheckpointError,
        ["reasoning_sft: expected tokenizer files to copy"],
    ),
]


@pytest.fixture
def others(make_model: MakeModel) -> dict[str, Path]:
    return {"base_model": make_model("base_model"), "instruct_sft": make_model("instruct_sft", seed=1)}


def refusal(
    recipe: Recipe, models: dict[str, Path], tmp_path: Path, kind: type[BaiPipelineError], **options: Any
) -> str:
    """The message; both ways of merging must raise it and leave nothing."""
    out, results = tmp_path / "out", tmp_path / "results"
    out.mkdir()
    results.mkdir()
    with pytest.raises(kind) as caught:
        merge(recipe, models, out, "reasoning_sft", "1", SilentReporter(), **options)
    with pytest.raises(kind) as again:
        merge_to(recipe, models, results / "actor", "reasoning_sft", "1", SilentReporter(), **options)
    assert list(out.iterdir()) == []
    assert list(results.iterdir()) == []
    assert str(again.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("how", "damage", "kind", "parts"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_a_bad_input_is_refused_by_name_and_leaves_nothing(
    make_model: MakeModel,
    others: dict[str, Path],
    tmp_path: Path,
    how: dict[str, Any],
    damage: Damage | None,
    kind: type[BaiPipelineError],
    parts: list[str],
) -> None:
    bad = make_model("reasoning_sft", **({"seed": 2} | how))
    if damage is not None:
        damage(bad)
    message = refusal(RECIPE, others | {"reasoning_sft": bad}, tmp_path, kind)
    for part in parts:
        assert part in message


def test_the_flat_position_counts_from_the_start_of_the_tensor(make_model: MakeModel, tmp_path: Path) -> None:
    tensor = torch.zeros(3, CHUNK_ELEMENTS).bfloat16()
    tensor[2, 5] = float("nan")
    models = {"reasoning_sft": make_model("reasoning_sft", changes={"large": tensor})}
    message = refusal(stage_1_recipe({"reasoning": 1.0}), models, tmp_path, CheckpointError)
    assert f"flat position {2 * CHUNK_ELEMENTS + 5};" in message


def test_a_nan_in_a_model_of_weight_zero_is_refused_too(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    models = others | {"reasoning_sft": make_model("reasoning_sft", changes={"experts.1": NAN})}
    message = refusal(bai_recipe(1.0, {"instruct": 0.5, "reasoning": 0.5}), models, tmp_path, CheckpointError)
    assert "tensor experts.1 of reasoning_sft" in message


def test_a_model_that_nobody_gave_is_refused(others: dict[str, Path], tmp_path: Path) -> None:
    message = refusal(RECIPE, others, tmp_path, RecipeError)
    assert message == (
        "unknown model reasoning_sft, expected one of base_model, instruct_sft; no checkpoint was written"
    )


def test_an_input_that_changed_since_the_merge_was_ordered_is_refused(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    message = refusal(RECIPE, models, tmp_path, CheckpointError, digests={"reasoning_sft": "0" * 64})
    assert f"expected {'0' * 64}: it has changed since the merge was ordered" in message


def test_integers_cannot_be_merged(make_model: MakeModel, tmp_path: Path) -> None:
    models = {"reasoning_sft": make_model("reasoning_sft", changes={"ids": torch.arange(3)})}
    message = refusal(stage_1_recipe({"reasoning": 1.0}), models, tmp_path, CheckpointError)
    assert "tensor ids of reasoning_sft is I64, expected one of F32, BF16, F16" in message


def test_a_value_beyond_the_output_dtype_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    changes = {"norm": torch.tensor([0.0, 1e6, 1.0])}
    models = {"reasoning_sft": make_model("reasoning_sft", dtype=torch.float32, changes=changes)}
    message = refusal(stage_1_recipe({"reasoning": 1.0}, dtype="F16"), models, tmp_path, CheckpointError)
    assert "tensor norm: the merged value at flat position 1 is out of the range of F16" in message


def test_weights_are_asserted_again_at_the_write(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    recipe = bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5})
    object.__setattr__(recipe.root.inputs[0], "weight", 0.6)  # type: ignore[union-attr]
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    message = refusal(recipe, models, tmp_path, RecipeError)
    assert (
        "got 0.6 (base_model) + 0.5 (linear(instruct_sft, reasoning_sft)) = 1.1; no checkpoint was written" in message
    )


def test_an_output_directory_that_holds_something_is_left_alone(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("content")
    with pytest.raises(CheckpointError, match="expected an empty directory"):
        merge(RECIPE, models, tmp_path / "out", "reasoning_sft", "1", SilentReporter())
    with pytest.raises(CheckpointError, match="already exists; nothing was written"):
        merge_to(RECIPE, models, tmp_path / "out", "reasoning_sft", "1", SilentReporter())
    assert (tmp_path / "out" / "mine").read_text() == "content"
