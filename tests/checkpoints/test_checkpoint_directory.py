"""Directories: single files, shards, links, pickles."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bai_pipeline.checkpoints import CHUNK_ELEMENTS, Checkpoint, Reader
from bai_pipeline.errors import CheckpointError

MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]

SHARDS = [["gate.weight", "scale"], ["embed.weight", "norm.weight"]]
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def read_all(checkpoint: Checkpoint, name: str) -> bytes:
    with Reader() as reader:
        return b"".join(bytes(chunk) for chunk in reader.chunks(checkpoint.tensors[name]))


def edit_index(directory: Path, **changes: str | None) -> None:
    file = directory / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    for key, shard in changes.items():
        name = key.replace("_", ".")
        if shard is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = shard
    file.write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [None, SHARDS], ids=["single", "sharded"])
def test_every_tensor_reads_back(
    make_checkpoint: MakeCheckpoint, tensors: Tensors, shards: list[list[str]] | None
) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(shards=shards))

    for name, expected in tensors.items():
        assert read_all(checkpoint, name) == expected.tobytes()
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert checkpoint.config["num_experts"] == 4


def test_a_tensor_of_many_chunks_reads_back(make_checkpoint: MakeCheckpoint) -> None:
    expected = np.arange(2 * CHUNK_ELEMENTS + 17, dtype=np.float32)
    checkpoint = Checkpoint.open(make_checkpoint(content={"w": expected}))
    assert read_all(checkpoint, "w") == expected.tobytes()


def test_shards_group_the_tensors_by_file(make_checkpoint: MakeCheckpoint) -> None:
    shards = Checkpoint.open(make_checkpoint(shards=SHARDS)).shards()
    assert {file: {tensor.name for tensor in tensors} for file, tensors in shards.items()} == {
        FIRST: set(SHARDS[0]),
        SECOND: set(SHARDS[1]),
    }


def test_a_missing_shard_is_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=SHARDS)
    (directory / SECOND).unlink()
    with pytest.raises(CheckpointError, match=rf"{SECOND}: the shard of tensor embed\.weight is missing"):
        Checkpoint.open(directory)


def test_a_tensor_missing_in_its_shard_is_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=SHARDS)
    edit_index(directory, router_weight=FIRST)
    with pytest.raises(CheckpointError, match=rf"{FIRST}: tensor router\.weight is missing"):
        Checkpoint.open(directory)


def test_a_tensor_that_the_index_does_not_name_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=SHARDS)
    edit_index(directory, norm_weight=None)
    with pytest.raises(CheckpointError, match=r"holds tensor norm\.weight, but .* does not name it"):
        Checkpoint.open(directory)


def test_a_tensor_in_two_shards_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=[["embed.weight", "norm.weight"], ["gate.weight", "scale", "norm.weight"]])
    with pytest.raises(CheckpointError, match=rf"{FIRST}: holds tensor norm\.weight, but .* puts it in {SECOND}"):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    "shard", ["../other/model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "pytorch_model.bin"]
)
def test_an_index_cannot_name_a_file_elsewhere(make_checkpoint: MakeCheckpoint, shard: str) -> None:
    directory = make_checkpoint(shards=SHARDS)
    edit_index(directory, scale=shard)
    with pytest.raises(CheckpointError, match=r"index\.json: tensor scale: expected the name of a \.safetensors file"):
        Checkpoint.open(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_directory_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path, name: str) -> None:
    directory = make_checkpoint()
    (directory / name).rename(tmp_path / name)
    (directory / name).symlink_to(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: leads out of the checkpoint directory"):
        Checkpoint.open(directory)


def test_a_hugging_face_cache_is_read_through_its_links(
    make_checkpoint: MakeCheckpoint, tensors: Tensors, tmp_path: Path
) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in make_checkpoint(shards=SHARDS).iterdir():
        file.rename(blobs / f"hash-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.name}")

    checkpoint = Checkpoint.open(snapshot)

    assert read_all(checkpoint, "norm.weight") == tensors["norm.weight"].tobytes()
    assert set(checkpoint.shards()) == {FIRST, SECOND}


def test_a_pipe_in_place_of_a_file_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    (directory / "config.json").unlink()
    os.mkfifo(directory / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a regular file"):
        Checkpoint.open(directory)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"holds pickled weights only \(pytorch_model\.bin\), which are never loaded"
    ):
        Checkpoint.open(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or model\.safetensors\.index\.json"):
        Checkpoint.open(tmp_path)
    with pytest.raises(CheckpointError, match="expected a checkpoint directory, there is none"):
        Checkpoint.open(tmp_path / "absent")


def test_a_single_file_beside_an_index_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint(shards=SHARDS)
    (directory / FIRST).rename(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds both model\.safetensors and"):
        Checkpoint.open(directory)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[]", "expected a JSON object, got list"),
        ("model.safetensors.index.json", "{}", "expected an object weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"w": 3}}', "tensor w: expected the name of a .safetensors"),
    ],
)
def test_malformed_json_is_refused(make_checkpoint: MakeCheckpoint, name: str, text: str, message: str) -> None:
    directory = make_checkpoint(shards=SHARDS)
    (directory / name).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(directory)
    assert f"{name}: " in str(caught.value)
    assert message in str(caught.value)


def test_a_file_cut_after_opening_is_noticed(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    checkpoint = Checkpoint.open(directory)
    last = list(checkpoint.tensors)[-1]
    os.truncate(directory / "model.safetensors", (directory / "model.safetensors").stat().st_size - 1)
    with pytest.raises(CheckpointError, match=rf"tensor {last}: the file ends inside it"):
        read_all(checkpoint, last)
