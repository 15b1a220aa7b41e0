"""The files beside the tensors of a merged checkpoint: index, config, tokenizer, recipe."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.checkpoints import RECIPE_FILE, Checkpoint, TensorInfo, hash_files
from bai_pipeline.checkpoints.directory import CONFIG_FILE, INDEX_FILE, content_files, tokenizer_files
from bai_pipeline.checkpoints.manifest import sha256_of
from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging.recipe import Dtype, Recipe

_CONFIG_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Companions:
    """SHA-256 of what was written."""

    files: dict[str, str]
    recipe_sha256: str


def write_companions(
    recipe: Recipe,
    base: Checkpoint,
    tokenizer: Checkpoint,
    shards: Mapping[str, Sequence[TensorInfo]],
    out: Path,
    chat_template: str | None,
) -> Companions:
    """Config of `base`; tokenizer, chat template and generation config of `tokenizer`; the index when `base` has one.

    A `chat_template` that is given replaces the tokenizer's: transformers prefers its file to all other places.

    Raises:
        CheckpointError: `tokenizer` has no tokenizer files.
    """
    if not tokenizer_files(tokenizer.path):
        raise CheckpointError(f"{tokenizer.path}: expected tokenizer files to copy, there are none")
    for name, file in content_files(tokenizer.path).items():
        if name != CONFIG_FILE:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, out / name)
    if chat_template is not None:
        (out / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    _write_config(base, recipe.dtype, out)
    if (base.path / INDEX_FILE).exists():
        _write_index(shards, out)
    (out / RECIPE_FILE).write_text(recipe.to_json() + "\n", encoding="utf-8")
    return Companions(hash_files(out), sha256_of(out / RECIPE_FILE))


def _write_config(base: Checkpoint, dtype: Dtype | None, out: Path) -> None:
    """The base's config, byte for byte unless the dtype is another; transformers before 5 calls it torch_dtype."""
    shutil.copyfile(base.path / CONFIG_FILE, out / CONFIG_FILE)
    if dtype is not None:
        key = "torch_dtype" if "torch_dtype" in base.config else "dtype"
        config = {**base.config, key: _CONFIG_DTYPES[dtype]}
        if config != base.config:
            (out / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_index(shards: Mapping[str, Sequence[TensorInfo]], out: Path) -> None:
    tensors = {tensor.name: (file, tensor) for file, members in shards.items() for tensor in members}
    index = {
        "metadata": {
            "total_parameters": sum(tensor.elements for _, tensor in tensors.values()),
            "total_size": sum(tensor.nbytes for _, tensor in tensors.values()),
        },
        "weight_map": {name: tensors[name][0] for name in sorted(tensors)},
    }
    (out / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
