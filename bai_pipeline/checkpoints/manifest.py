"""The manifest of a checkpoint: what its bytes are and where they come from.

It lies beside config.json as `bai_manifest.json`. It holds neither times nor paths: the same merge writes the same
manifest on any machine. XXH3-128 guards tensors against damage (it is not a cryptographic hash); small files have their
SHA-256.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import xxhash

from bai_pipeline.checkpoints.checkpoint import Checkpoint, Reader
from bai_pipeline.checkpoints.directory import content_files, read_json_object
from bai_pipeline.checkpoints.header import TensorInfo, reading
from bai_pipeline.errors import CheckpointError

MANIFEST_FILE: Final = "bai_manifest.json"
RECIPE_FILE: Final = "recipe.json"


@dataclass(frozen=True)
class TensorRecord:
    """One tensor; `xxh3_128` is of its bytes, as hexadecimal digits."""

    dtype: str
    shape: list[int]
    xxh3_128: str

    @classmethod
    def of(cls, tensor: TensorInfo, digest: str) -> Self:
        """The record of a tensor whose bytes have this hash."""
        return cls(tensor.dtype, list(tensor.shape), digest)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Version 1 of the checkpoint manifest. (Not a pydantic model: its import would be half of a merge's start-up.)"""

    version: int = 1
    code_version: str
    parents: dict[str, str]
    """Digest of every model that this one was made from, by the name that the recipe gives it."""
    recipe: dict[str, Any] | None
    """The merge recipe as JSON; None when the checkpoint was trained."""
    recipe_sha256: str | None
    """Of recipe.json."""
    missing_rows: dict[str, list[list[int]]] = field(default_factory=dict)
    """Rows [start, stop) of a merged tensor that not every parent has: copied from `missing_rows_from`."""
    missing_rows_from: str | None = None
    """A parent's name; None when no rows were missing."""
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
    with Reader() as reader:
        return {name: _record(tensor, reader) for name, tensor in checkpoint.tensors.items()}


def hash_tensor(tensor: TensorInfo) -> TensorRecord:
    """Read every byte of one tensor."""
    with Reader() as reader:
        return _record(tensor, reader)


def _record(tensor: TensorInfo, reader: Reader) -> TensorRecord:
    hasher = xxhash.xxh3_128()
    for chunk in reader.chunks(tensor):
        hasher.update(chunk)
    return TensorRecord.of(tensor, hasher.hexdigest())


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
    file, value = directory / MANIFEST_FILE, read_json_object(directory, MANIFEST_FILE)
    required = {"version", "code_version", "parents", "recipe", "recipe_sha256", "files", "tensors"}
    faults = [f"{name} is missing" for name in sorted(required - value.keys())]
    faults += [f"{name} is unknown" for name in sorted(value.keys() - required - {"missing_rows", "missing_rows_from"})]
    if not faults:
        faults = [f"{name} is not {_EXPECTED[name]}" for name, entry in value.items() if not _is_sound(name, entry)]
    if faults:
        raise CheckpointError(f"{file}: not a version 1 manifest: {'; '.join(faults)}")
    tensors = {name: TensorRecord(**record) for name, record in value.pop("tensors").items()}
    return Manifest(**value, tensors=tensors)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest as the last file of a checkpoint."""
    tensors = {name: vars(record) for name, record in manifest.tensors.items()}
    text = json.dumps({**vars(manifest), "tensors": tensors}, indent=1, sort_keys=True)
    (directory / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


_TEXTS = "an object of texts"
_EXPECTED: Final = {
    "version": "1",
    "code_version": "a text",
    "parents": _TEXTS,
    "recipe": "an object or null",
    "recipe_sha256": "a text or null",
    "missing_rows": "an object of lists of [start, stop]",
    "missing_rows_from": "a text or null",
    "files": _TEXTS,
    "tensors": "an object of {dtype, shape, xxh3_128}",
}


def _is_sound(name: str, value: object) -> bool:
    """Whether a field is what `_EXPECTED` says."""
    expected = _EXPECTED[name]
    if value is None:
        return expected.endswith("or null")
    if expected.startswith("a text"):
        return isinstance(value, str)
    if name == "version":
        return value == 1 and not isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if expected == _TEXTS:
        return all(isinstance(text, str) for text in value.values())
    if name == "missing_rows":
        return all(isinstance(rows, list) and all(_are_counts(pair, 2) for pair in rows) for rows in value.values())
    return name == "recipe" or all(map(_is_record, value.values()))


def _is_record(value: object) -> bool:
    match value:
        case {"dtype": str(), "shape": shape, "xxh3_128": str(), **rest} if not rest:
            return _are_counts(shape)
    return False


def _are_counts(value: object, length: int | None = None) -> bool:
    return (
        isinstance(value, list)
        and length in (None, len(value))
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value)
    )


def sha256_of(file: Path) -> str:
    with reading(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
