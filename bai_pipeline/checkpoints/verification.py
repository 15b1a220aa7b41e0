"""Reading every byte of a checkpoint: its digest, and whether it still is what its manifest says."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bai_pipeline.checkpoints.checkpoint import Checkpoint
from bai_pipeline.checkpoints.directory import INDEX_FILE, content_files, is_there, read_json_object
from bai_pipeline.checkpoints.manifest import (
    MANIFEST_FILE,
    RECIPE_FILE,
    Manifest,
    TensorRecord,
    content_digest,
    hash_files,
    hash_tensors,
    read_manifest,
    sha256_of,
)
from bai_pipeline.errors import CheckpointError

Stamp = dict[str, list[int]]
"""(size, mtime_ns, inode) of every file that the digest depends on."""

_LISTED = 20


def verify(path: Path) -> Manifest:
    """Compare every byte of a checkpoint with its manifest, and return the manifest.

    Raises:
        CheckpointError: there is no manifest, or tensors, files or the recipe differ from it; the message names them.
    """
    checkpoint, manifest = Checkpoint.open(path), read_manifest(path)
    found = _differences(manifest, hash_tensors(checkpoint), hash_files(path))
    recipe_file = path / RECIPE_FILE
    if manifest.recipe_sha256 is not None:
        if not recipe_file.is_file() or sha256_of(recipe_file) != manifest.recipe_sha256:
            found.append(f"{RECIPE_FILE} is not the recorded one")
        elif read_json_object(path, RECIPE_FILE) != manifest.recipe:
            found.append(f"{RECIPE_FILE} is not the recipe inside the manifest")
    _refuse_differences(path, found)
    return manifest


def checkpoint_digest(path: Path, cache: Path | None = None) -> str:
    """The content digest (see `content_digest`) of any Hugging Face directory, with or without a manifest.

    Every byte is read, unless `cache` knows the digest for the same sizes, modification times and inodes.

    Args:
        cache: a JSON file, created when absent. Processes may share it: the last writer wins, a lost entry costs time.

    Raises:
        CheckpointError: the checkpoint is malformed, differs from its own manifest, or changed while it was read.
    """
    checkpoint = Checkpoint.open(path)
    key, stamp = str(path.resolve()), stamp_of(checkpoint)
    known = _read_cache(cache)
    match known.get(key):
        case {"stamp": recorded, "digest": str(digest)} if recorded == stamp:
            return digest
    tensors, files = hash_tensors(checkpoint), hash_files(path)
    if is_there(path / MANIFEST_FILE):
        _refuse_differences(path, _differences(read_manifest(path), tensors, files))
    if stamp_of(checkpoint) != stamp:
        raise CheckpointError(f"{path}: the checkpoint changed while it was read; no digest was taken")
    digest = content_digest(tensors, files)
    if cache is not None:
        remember_digest(path, stamp, digest, cache)
    return digest


def remember_digest(path: Path, stamp: Stamp, digest: str, cache: Path) -> None:
    """Write down the digest of the checkpoint that has this stamp."""
    _write_cache(cache, _read_cache(cache) | {str(path.resolve()): {"stamp": stamp, "digest": digest}})


def _differences(manifest: Manifest, tensors: Mapping[str, TensorRecord], files: Mapping[str, str]) -> list[str]:
    found = []
    for kind, recorded, actual in (("tensor", manifest.tensors, tensors), ("file", manifest.files, files)):
        found += [f"{kind} {name} is missing" for name in recorded if name not in actual]
        found += [f"{kind} {name} is not in the manifest" for name in actual if name not in recorded]
        found += [f"{kind} {name} differs" for name in recorded if name in actual and recorded[name] != actual[name]]
    return found


def _refuse_differences(path: Path, found: list[str]) -> None:
    if found:
        more = f", and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise CheckpointError(f"{path}: not what {MANIFEST_FILE} recorded: {', '.join(found[:_LISTED])}{more}")


def stamp_of(checkpoint: Checkpoint) -> Stamp:
    """What tells cheaply that a checkpoint is still the one that was read."""
    files = {tensor.file.name: tensor.file for tensor in checkpoint.tensors.values()} | content_files(checkpoint.path)
    for name in (INDEX_FILE, MANIFEST_FILE):
        if (checkpoint.path / name).exists():
            files[name] = checkpoint.path / name
    stamp = {}
    for name, file in sorted(files.items()):
        status = file.stat()
        stamp[name] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return stamp


def _read_cache(cache: Path | None) -> dict[str, Any]:
    """The entries; nothing when the file is absent or damaged, for a digest can always be taken again."""
    if cache is None or not cache.is_file():
        return {}
    try:
        entries = json.loads(cache.read_bytes())
    except ValueError:
        return {}
    return entries if isinstance(entries, dict) else {}


def _write_cache(cache: Path, entries: Mapping[str, Any]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}.{secrets.token_hex(4)}.partial")
    partial.write_text(json.dumps(entries, indent=1, sort_keys=True), encoding="utf-8")
    partial.replace(cache)
