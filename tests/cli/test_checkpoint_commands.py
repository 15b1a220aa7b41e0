"""`bai inspect`, `bai compare` and `bai verify PATH` on small checkpoints."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from bai_pipeline.checkpoints import Checkpoint, describe, write_manifest
from bai_pipeline.cli.main import app
from bai_pipeline.errors import CheckpointError

RUNNER = CliRunner()
CONFIG = {
    "model_type": "olmoe",
    "architectures": ["OlmoeForCausalLM"],
    "vocab_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 1,
}
SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.gate.weight": (4, 8),
    **{f"model.layers.0.mlp.experts.{n}.up_proj.weight": (6, 8) for n in range(4)},
    "model.norm.weight": (8,),
    "lm_head.weight": (16, 8),
}
PARAMETERS = 128 + 64 + 32 + 4 * 48 + 8 + 128
UP = "model.layers.0.mlp.experts.3.up_proj.weight"

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(
        name: str,
        *,
        seed: int = 0,
        shards: Sequence[Sequence[str]] | None = None,
        changes: dict[str, torch.Tensor | None] | None = None,
        config: dict[str, Any] = CONFIG,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        generator = torch.Generator().manual_seed(seed)
        drawn = {key: torch.randn(shape, generator=generator).bfloat16() for key, shape in SHAPES.items()}
        tensors = {key: value for key, value in (drawn | (changes or {})).items() if value is not None}
        if shards is None:
            save_file(tensors, directory / "model.safetensors")
        else:
            weight_map = {key: f"model-{n}.safetensors" for n, names in enumerate(shards) for key in names}
            for file in set(weight_map.values()):
                save_file({key: tensors[key] for key, place in weight_map.items() if place == file}, directory / file)
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        added = [{"content": "<think>", "id": 2}]
        vocab = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}}, "added_tokens": added}
        (directory / "tokenizer.json").write_text(json.dumps(vocab))
        (directory / "chat_template.jinja").write_text("{{ messages }}")
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return build


def with_manifest(directory: Path) -> Path:
    write_manifest(directory, describe(Checkpoint.open(directory), code_version="1", parents={"base_model": "00"}))
    return directory


def bai(*words: str | Path) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def bai_json(*words: str | Path) -> tuple[int, Any]:
    code, output = bai(*words, "--json")
    return code, json.loads(output)


def flip_byte(directory: Path, tensor: str) -> None:
    found = Checkpoint.open(directory).tensors[tensor]
    content = bytearray(found.file.read_bytes())
    content[found.start] ^= 1
    found.file.write_bytes(content)


# -- inspect -----------------------------------------------------------------------------------------------------------


def test_inspect_says_what_is_in_a_checkpoint(make: Make) -> None:
    names = list(SHAPES)
    code, found = bai_json("inspect", with_manifest(make("model", shards=[names[:3], names[3:]])))
    contents = found["model"]
    assert code == 0
    assert contents["architecture"] == {"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"]}
    assert contents["parameters"] == PARAMETERS
    assert contents["active per token"] == PARAMETERS - 3 * 48
    assert (contents["bytes"], contents["dtypes"], contents["shards"]) == (2 * PARAMETERS, {"BF16": 9}, 2)
    assert contents["kinds"]["experts"] == {"tensors": 4, "parameters": 192}
    assert contents["kinds"]["router"] == {"tensors": 1, "parameters": 32}
    assert contents["tokenizer"] == {
        "files": ["tokenizer.json", "chat_template.jinja"],
        "tokens": 3,
        "added": ["<think>"],
        "chat template": True,
    }
    assert contents["generation config"] == {"eos_token_id": 2}
    assert contents["manifest"]["parents"] == {"base_model": "00"}


def test_inspect_of_a_dense_model_knows_no_active_parameters_and_of_a_bare_one_no_manifest(make: Make) -> None:
    config = {"model_type": "llama"}
    changes = {name: None for name in SHAPES if "experts" in name}
    _, found = bai_json("inspect", make("model", config=config, changes=changes))
    assert found["model"]["active per token"] is None
    assert found["model"]["manifest"] is None


def test_a_table_is_not_cut_where_nobody_watches(make: Make) -> None:
    long = "x" * 300
    code, output = bai("inspect", make("model", config={**CONFIG, "architectures": [long]}))
    assert code == 0
    assert long in output


def test_models_of_one_name_are_told_apart_by_their_paths(make: Make, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [make("a/model"), make("b/model")]
    _, found = bai_json("inspect", *paths)
    assert list(found) == [str(path) for path in paths]


def test_inspect_with_a_base_measures_every_kind_and_layer(make: Make) -> None:
    tensors = {name: torch.zeros(shape).bfloat16() for name, shape in SHAPES.items()}
    ones = {name: torch.full(shape, 1.0).bfloat16() for name, shape in SHAPES.items()}
    base = make("zero", changes=dict(tensors))
    up, down = make("up", changes=dict(ones)), make("down", changes={name: -value for name, value in ones.items()})
    code, found = bai_json("inspect", up, down, "--base", base, "--weight", "0.5", "--dtype", "F32")
    assert code == 0
    kinds = {"embeddings", "attention", "router", "experts", "norms", "head"}
    assert found["groups"].keys() == {"all", *kinds, "layer 0", "outside the layers"}
    assert found["groups"]["all"]["elements"] == PARAMETERS
    assert found["groups"]["layer 0"]["elements"] == 64 + 32 + 192
    for group in found["groups"].values():
        assert group["cosines"] == {"up, down": pytest.approx(-1.0)}
        assert group["models"]["up"] == {"distance": None, "moved": 1.0, "survived": 1.0, "rounding": 0.0}
    assert (found["dtype"], found["weight"], found["warnings"], found["notes"]) == ("F32", 0.5, [], [])


def test_a_group_whose_change_is_lost_in_rounding_is_warned_of(make: Make) -> None:
    one, step = torch.ones(8).bfloat16(), 2.0**-7
    base = make("base", changes={"model.norm.weight": one})
    sft = make("sft", changes={"model.norm.weight": one + step, "lm_head.weight": torch.zeros(16, 8).bfloat16()})
    code, found = bai_json("inspect", sft, "--base", base, "--weight", "0.25")
    assert code == 0
    assert found["groups"]["norms"]["models"]["sft"]["survived"] == 0.0
    assert found["warnings"] == ["norms of sft: rounding to the base dtype is 1 of the change (RMS)"]
    _, output = bai("inspect", sft, "--base", base, "--weight", "0.25")
    assert "warning: norms of sft: rounding to the base dtype is 1 of the change (RMS)" in output


def test_the_table_of_distances_names_groups_models_and_pairs(make: Make) -> None:
    code, output = bai("inspect", make("x", seed=1), make("y", seed=2), "--base", make("base"))
    assert code == 0
    for text in ("layer 0", "experts", "outside the layers", "cosine x, y"):
        assert text in output


# -- compare -----------------------------------------------------------------------------------------------------------


def test_the_same_weights_in_other_shards_are_the_same_checkpoint(make: Make) -> None:
    names = list(SHAPES)
    one, other = make("one"), make("other", shards=[names[4:], names[:4]])
    code, output = bai("compare", one, other)
    assert code == 0
    assert output.startswith("the same checkpoint: 9 tensors, 4 other files, digest ")
    code, found = bai_json("compare", one, with_manifest(other))
    assert (code, found["identical"], found["differences"]) == (0, True, [])
    assert found["digests"][0] == found["digests"][1]
    assert found["tensors"][UP] == {"equal": 1.0, "largest": 0.0, "distance": 0.0}


def test_one_changed_weight_is_found_and_measured(make: Make) -> None:
    ones = torch.ones(6, 8).bfloat16()
    changed = ones.clone()
    changed[2, 3] = 1.5
    one, other = make("one", changes={UP: ones}), make("other", changes={UP: changed})
    code, output = bai("compare", one, other)
    assert code == 1
    assert output.startswith("1 of 9 tensors that can be compared differ\n")
    assert UP in output
    code, found = bai_json("compare", one, other)
    assert code == 1
    assert found["tensors"][UP] == {
        "equal": pytest.approx(47 / 48),
        "largest": 0.5,
        "distance": pytest.approx(0.5 / 48**0.5),
    }


def test_the_ten_tensors_that_differ_most_are_shown_to_people(make: Make) -> None:
    base = {f"layers.{n}.weight": torch.ones(1) for n in range(12)}
    steps = {f"layers.{n}.weight": torch.ones(1) + n / 16 for n in range(12)}
    _, output = bai("compare", make("one", changes=dict(base)), make("other", changes=dict(steps)))
    shown = [line.split()[1] for line in output.splitlines() if "layers." in line]
    assert shown == [f"layers.{n}.weight" for n in range(11, 1, -1)]


def test_names_shapes_dtypes_config_and_tokenizer_are_compared(make: Make) -> None:
    one = make("one", changes={"gone": torch.ones(1)})
    changes = {"model.norm.weight": torch.ones(8), "lm_head.weight": torch.ones(17, 8).bfloat16()}
    other = make("other", changes=dict(changes), config={**CONFIG, "rope_scaling": {"factor": 2.0}})
    (other / "chat_template.jinja").write_text("hello")
    (other / "generation_config.json").write_text('{"eos_token_id":   2}')
    (other / "tokenizer.json").write_text((one / "tokenizer.json").read_text().replace("<think>", "<thought>"))
    (other / "tokenizer_config.json").write_text("{}")
    code, found = bai_json("compare", one, other)
    assert code == 1
    assert found["differences"] == [
        "chat_template.jinja: differs",
        f"config.json: rope_scaling.factor is absent in {one}, 2.0 in {other}",
        "generation_config.json: the same values, written differently",
        f'tokenizer.json: added_tokens.0.content is "<think>" in {one}, "<thought>" in {other}',
        f"tokenizer_config.json: only in {other}",
        f"tensor gone: only in {one}",
        f"tensor lm_head.weight: BF16 [16, 8] in {one}, BF16 [17, 8] in {other}",
        f"tensor model.norm.weight: BF16 [8] in {one}, F32 [8] in {other}",
    ]
    assert "lm_head.weight" not in found["tensors"]
    assert found["tensors"]["model.norm.weight"]["equal"] == 0.0


def test_a_difference_of_config_alone_is_a_difference(make: Make) -> None:
    code, output = bai("compare", make("one"), make("other", config={**CONFIG, "rope_theta": 1.0}))
    assert code == 1
    assert "0 of 9 tensors that can be compared differ" in output
    assert "config.json: rope_theta is absent in" in output


def test_what_is_no_checkpoint_cannot_be_compared(make: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: expected a checkpoint directory"):
        bai("compare", make("one"), tmp_path / "nowhere")


# -- verify ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_verified_against_its_manifest(make: Make) -> None:
    path = with_manifest(make("model"))
    assert bai("verify", path) == (0, f"{path}: 9 tensors and 4 other files are as recorded, byte by byte\n")
    flip_byte(path, UP)
    code, output = bai("verify", path)
    assert code == 1
    assert f"tensor {UP} differs" in output


def test_a_checkpoint_without_a_manifest_is_only_looked_through_for_nan_and_infinity(make: Make) -> None:
    path = make("model")
    code, output = bai("verify", path)
    assert (code, output) == (
        0,
        f"{path}: no bai_manifest.json to compare with; headers are sound, 9 tensors finite\n",
    )
    infinite = make("infinite", changes={"model.norm.weight": torch.full((8,), float("inf")).bfloat16()})
    code, output = bai("verify", infinite)
    assert code == 1
    assert "tensor model.norm.weight: not finite at flat position 0" in output


def test_every_path_has_its_line_and_one_failure_is_enough(make: Make, tmp_path: Path) -> None:
    good, bad = with_manifest(make("good")), tmp_path / "nowhere"
    code, output = bai("verify", bad, good)
    assert code == 1
    first, second = output.splitlines()
    assert first.startswith(f"{bad}: expected a checkpoint directory")
    assert second.startswith(f"{good}: 9 tensors")


def test_the_models_of_a_recipe_directory_are_known_to_be_unchanged(make: Make, tmp_path: Path) -> None:
    base, sft, out = make("base"), make("reasoning_sft", seed=1), tmp_path / "actor"
    cache = ("--cache", tmp_path / "digests.json")
    code, _ = bai("merge", "--base", base, "--sft", sft, "--alpha", "0.5", "--out", out, "--recipe-only", *cache)
    assert code == 0
    assert bai("verify", out) == (0, f"{out}: a recipe; its models are unchanged: base_model, reasoning_sft\n")
    flip_byte(sft, UP)
    code, output = bai("verify", out)
    assert code == 1
    assert f"{sft}: reasoning_sft has changed since" in output


# -- start-up ----------------------------------------------------------------------------------------------------------


def test_the_command_line_starts_without_heavy_libraries() -> None:
    code = "import bai_pipeline.cli.main, sys; print(*{'numpy', 'pandas', 'rich', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_distances_are_measured_without_torch(make: Make) -> None:
    words = ["bai", "inspect", str(make("sft", seed=1)), "--base", str(make("base"))]
    code = f"import sys; sys.argv = {words!r}\nfrom bai_pipeline.cli.main import app\n"
    code += "app(standalone_mode=False)\nprint(*{'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
