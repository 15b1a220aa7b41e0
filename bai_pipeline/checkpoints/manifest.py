"""The manifest of a checkpoint: what its bytes are and where they come from.

It lies beside config.json as `bai_manifest.json`. It holds neither times nor paths: the same merge writes the same
manifest on any machine. XXH3-128 guards tensors against damage (it is not a cryptographic hash); small files have their
SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from bai_pipeline.checkpoints.checkpoint import Checkpoint, Reader
from bai_pipeline.checkpoints.directory import content_files, file_inside
from bai_pipeline.errors import CheckpointError

MANIFEST_FILE: Final = "bai_manifest.json"
RECIPE_FILE: Final = "recipe.json"


class TensorRecord(BaseModel):
    """One tensor; `xxh3_128` is of its bytes, as hexadecimal digits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[int]
    xxh3_128: str


class Manifest(BaseModel):
    """Version 1 of the checkpoint manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    code_version: str
    parents: dict[str, str]
    """Digest of every model that this one was made from, by the name that the recipe gives it."""
    recipe: dict[str, Any] | None
    """The merge recipe as JSON; None when the checkpoint was trained."""
    recipe_sha256: str | None
    """Of recipe.json."""
    files: dict[str, str]
    """SHA-256 of config.json, generation_config.json and the tokenizer's files."""
    tensors: dict[str, TensorRecord]

    @property
    def digest(self) -> str:
        """The content digest of the checkpoint, equal to `checkpoint_digest` of its directory."""
        return content_digest(self.tensors, self.files)


def content_digest(tensors: Mapping[str, TensorRecord], files: Mapping[str, str]) -> str:
    """SHA-256 over the tensors (name, dtype, shape, hash) and files (name, hash).

    It does not depend on the shard layout, the order of tensors in a file, the manifest or the recipe: the same
    weights, config and tokenizer are the same checkpoint, however they were made.
    """
    content = {
        "tensors": {name: [record.dtype, record.shape, record.xxh3_128] for name, record in tensors.items()},
        "files": dict(files),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """SHA-256 of the config and tokenizer files, by name."""
    return {name: sha256_of(file) for name, file in content_files(directory).items()}


def hash_tensors(checkpoint: Checkpoint) -> dict[str, TensorRecord]:
    """Read every byte of every tensor."""
    records = {}
    with Reader() as reader:
        for tensor in checkpoint.tensors.values():
            hasher = xxhash.xxh3_128()
            for chunk in reader.chunks(tensor):
                hasher.update(chunk)
            records[tensor.name] = TensorRecord(
                dtype=tensor.dtype, shape=list(tensor.shape), xxh3_128=hasher.hexdigest()
            )
    return records


def describe(checkpoint: Checkpoint, *, code_version: str, parents: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of a checkpoint that another library wrote (a trained one); reads every byte."""
    return Manifest(
        code_version=code_version,
        parents=dict(parents or {}),
        recipe=None,
        recipe_sha256=None,
        files=hash_files(checkpoint.path),
        tensors=hash_tensors(checkpoint),
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a checkpoint directory.

    Raises:
        CheckpointError: there is none, or it is not version 1.
    """
    file = file_inside(directory, MANIFEST_FILE)
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{file}: not a version 1 manifest: {error}") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest as the last file of a checkpoint."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
