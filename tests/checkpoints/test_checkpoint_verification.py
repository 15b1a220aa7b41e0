"""Digests, manifests and verification."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from bai_pipeline.checkpoints import (
    Checkpoint,
    TensorRecord,
    check_finite,
    checkpoint_digest,
    describe,
    read_manifest,
    verify,
    write_manifest,
)
from bai_pipeline.checkpoints.manifest import hash_tensors
from bai_pipeline.errors import CheckpointError

MakeCheckpoint = Callable[..., Path]
Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]


def with_manifest(directory: Path) -> Path:
    write_manifest(directory, describe(Checkpoint.open(directory), code_version="1", parents={"base_model": "00"}))
    return directory


def flip_byte(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


def test_a_manifest_reads_back_and_holds_the_hash_of_each_tensor(
    make_checkpoint: MakeCheckpoint, tensors: Tensors
) -> None:
    directory = with_manifest(make_checkpoint())
    manifest = read_manifest(directory)
    assert {name: record.xxh3_128 for name, record in manifest.tensors.items()} == {
        name: xxhash.xxh3_128_hexdigest(tensor.tobytes()) for name, tensor in tensors.items()
    }
    assert manifest.parents == {"base_model": "00"}
    assert verify(directory) == manifest


def test_one_flipped_bit_of_a_tensor_is_found_and_named(make_checkpoint: MakeCheckpoint) -> None:
    directory = with_manifest(make_checkpoint())
    flip_byte(directory / "model.safetensors", Checkpoint.open(directory).tensors["norm.weight"].start + 2)
    with pytest.raises(CheckpointError, match=r"not what bai_manifest\.json recorded: tensor norm\.weight differs$"):
        verify(directory)


def test_changed_added_and_removed_files_are_found(make_checkpoint: MakeCheckpoint) -> None:
    directory = with_manifest(make_checkpoint())
    (directory / "config.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("hello")
    (directory / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(directory)
    for fault in (
        "file tokenizer_config.json is missing",
        "file chat_template.jinja is not in the manifest",
        "file config.json differs",
    ):
        assert fault in str(caught.value)


def test_a_checkpoint_without_a_manifest_cannot_be_verified(make_checkpoint: MakeCheckpoint) -> None:
    with pytest.raises(CheckpointError, match=r"bai_manifest\.json: expected a regular file"):
        verify(make_checkpoint())


MALFORMED = json.dumps(
    {
        "version": 1,
        "code_version": "1",
        "parents": {},
        "recipe": None,
        "recipe_sha256": None,
        "files": {},
        "tensors": {"a": {"dtype": "F32", "shape": [-1], "xxh3_128": ""}},
    }
)


@pytest.mark.parametrize("text", ["{", "{}", '{"version": 2}', MALFORMED])
def test_a_malformed_manifest_is_refused(make_checkpoint: MakeCheckpoint, text: str) -> None:
    directory = make_checkpoint()
    (directory / "bai_manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"bai_manifest\.json: not (a version 1 manifest|valid JSON)"):
        read_manifest(directory)


def test_a_digest_depends_on_content_and_not_on_shards_or_manifest(make_checkpoint: MakeCheckpoint) -> None:
    one = make_checkpoint("one")
    sharded = make_checkpoint("sharded", shards=[["scale"], ["norm.weight", "gate.weight", "embed.weight"]])
    digest = checkpoint_digest(one)
    assert checkpoint_digest(sharded) == digest
    assert checkpoint_digest(with_manifest(one)) == digest == read_manifest(one).digest


@pytest.mark.parametrize(
    "change", ["tensor", "config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"]
)
def test_a_digest_changes_with_every_part(make_checkpoint: MakeCheckpoint, change: str) -> None:
    directory = make_checkpoint()
    before = checkpoint_digest(directory)
    if change == "tensor":
        flip_byte(directory / "model.safetensors", Checkpoint.open(directory).tensors["scale"].start)
    else:
        file = directory / change
        file.write_text(file.read_text() + " " if file.exists() else "{}")
    assert checkpoint_digest(directory) != before


def test_files_that_are_no_content_leave_the_digest(make_checkpoint: MakeCheckpoint) -> None:
    directory = make_checkpoint()
    before = checkpoint_digest(directory)
    (directory / "README.md").write_text("about")
    (directory / "training_args.bin").write_bytes(b"pickle")
    assert checkpoint_digest(directory) == before


def test_a_cached_digest_reads_no_tensor(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, cache = make_checkpoint(), tmp_path / "cache" / "digests.json"
    first = checkpoint_digest(directory, cache)
    monkeypatch.setattr("bai_pipeline.checkpoints.verification.hash_tensors", None)
    assert checkpoint_digest(directory, cache) == first


def test_a_cached_digest_is_forgotten_when_a_file_changes(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    directory, cache = make_checkpoint(), tmp_path / "digests.json"
    first = checkpoint_digest(directory, cache)
    file = directory / "model.safetensors"
    status = file.stat()
    flip_byte(file, Checkpoint.open(directory).tensors["scale"].start)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert checkpoint_digest(directory, cache) != first


def test_a_checkpoint_that_changes_while_it_is_read_has_no_digest(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, cache = make_checkpoint(), tmp_path / "digests.json"

    def hash_and_disturb(checkpoint: Checkpoint) -> dict[str, TensorRecord]:
        records = hash_tensors(checkpoint)
        os.utime(directory / "model.safetensors", ns=(1, 1))
        return records

    monkeypatch.setattr("bai_pipeline.checkpoints.verification.hash_tensors", hash_and_disturb)
    with pytest.raises(CheckpointError, match="changed while it was read; no digest was taken"):
        checkpoint_digest(directory, cache)
    assert not cache.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 3}'])
def test_a_damaged_cache_costs_a_read_only(make_checkpoint: MakeCheckpoint, tmp_path: Path, text: str) -> None:
    directory, cache = make_checkpoint(), tmp_path / "digests.json"
    cache.write_text(text)
    assert checkpoint_digest(directory, cache) == checkpoint_digest(directory)
    assert str(directory.resolve()) in json.loads(cache.read_text())


def test_a_digest_of_a_damaged_checkpoint_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    directory = with_manifest(make_checkpoint())
    flip_byte(directory / "model.safetensors", Checkpoint.open(directory).tensors["scale"].start)
    with pytest.raises(CheckpointError, match="tensor scale differs"):
        checkpoint_digest(directory)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_first_value_that_is_not_finite_is_found(
    make_checkpoint: MakeCheckpoint, value: float, dtype: type[np.floating]
) -> None:
    tensor = np.full((600, 1000), np.finfo(dtype).max, dtype=dtype)
    good = Checkpoint.open(make_checkpoint("good", content={"w": tensor, "n": np.arange(3)}))
    tensor[500, 7] = tensor[599, 0] = value
    bad = Checkpoint.open(make_checkpoint("bad", content={"w": tensor}))
    check_finite(good)
    with pytest.raises(CheckpointError, match=r"bad/model\.safetensors: tensor w: not finite at flat position 500007"):
        check_finite(bad)
