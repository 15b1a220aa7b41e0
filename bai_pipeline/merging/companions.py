"""The files beside the tensors of a merged checkpoint: index, config, tokenizer, recipe."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.checkpoints import RECIPE_FILE, TensorInfo, hash_files, writing
from bai_pipeline.checkpoints.directory import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, content_files, tokenizer_files
from bai_pipeline.checkpoints.manifest import sha256_of
from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging.plan import MergePlan
from bai_pipeline.merging.recipe import Dtype, Recipe

_CONFIG_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Companions:
    """SHA-256 of what was written."""

    files: dict[str, str]
    recipe_sha256: str


def write_companions(
    plan: MergePlan,
    recipe: Recipe,
    layout: Mapping[str, Sequence[TensorInfo]] | None,
    out: Path,
    chat_template: str | None,
) -> Companions:
    """Config of the base; tokenizer, chat template and generation config of the tokenizer's model; the recipe.

    A `chat_template` that is given replaces the tokenizer's: transformers prefers its file to all other places.

    Args:
        layout: the files of tensors; an index is written when there are several. None: there are no tensors.

    Raises:
        CheckpointError: the tokenizer's model has no tokenizer files, or the disk is full.
    """
    tokenizer = plan.checkpoints[plan.tokenizer_from]
    if not tokenizer_files(tokenizer.path):
        raise CheckpointError(f"{tokenizer.path}: expected tokenizer files to copy, there are none")
    with writing(out):
        for name, file in content_files(tokenizer.path).items():
            if name != CONFIG_FILE:
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, out / name)
        if chat_template is not None:
            (out / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        _write_config(plan, recipe.dtype, out)
        if layout is not None and list(layout) != [SINGLE_FILE]:
            _write_index(layout, out)
        (out / RECIPE_FILE).write_text(recipe.to_json() + "\n", encoding="utf-8")
    return Companions(hash_files(out), sha256_of(out / RECIPE_FILE))


def _write_config(plan: MergePlan, dtype: Dtype | None, out: Path) -> None:
    """The base's config, byte for byte unless something is another; transformers before 5 calls dtype torch_dtype."""
    base = plan.base
    shutil.copyfile(base.path / CONFIG_FILE, out / CONFIG_FILE)
    config = dict(base.config)
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = _CONFIG_DTYPES[dtype]
    if plan.fit.rows is not None and "vocab_size" in config:
        config["vocab_size"] = plan.fit.rows
    elif plan.fit.rows is not None:  # of a model of several modalities
        config["text_config"] = {**config["text_config"], "vocab_size": plan.fit.rows}
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
