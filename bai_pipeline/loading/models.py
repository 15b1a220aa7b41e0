"""Loading of Hugging Face models in which every tensor is the checkpoint's, or that of the recipe in its place.

transformers initialises a tensor at random that a checkpoint lacks, or has in another shape, and drops one that the
model has no place for; it says so in its log only.
"""

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedModel
from transformers.core_model_loading import WeightConverter

from bai_pipeline.errors import CheckpointError
from bai_pipeline.loading.packing import pack_experts, restore_conversions
from bai_pipeline.merging.lazy import MergedTensors
from bai_pipeline.merging.recipe_directory import is_recipe_directory, open_recipe_directory
from bai_pipeline.quiet import quiet_transformers

SCORE_HEAD = "score.weight"
LANGUAGE_HEAD = "lm_head.weight"

_SHOWN = 5


def load_model(
    auto_class: Any, path: Path, *, missing: Collection[str] = (), unexpected: Collection[str] = (), **options: Any
) -> PreTrainedModel:
    """`auto_class.from_pretrained` on a local directory, with nothing random and nothing left over.

    A directory whose tensors are a recipe (`merging.recipe_directory`) is merged while it is loaded: the model is bit
    for bit that of the checkpoint that the merge would write.

    A tied head that a checkpoint leaves out is not missing.

    Args:
        auto_class: one of transformers' Auto classes for models.
        path: of safetensors, or of a recipe.
        missing: tensors that the checkpoint may lack.
        unexpected: tensors that it may have in excess.
        options: further arguments of `from_pretrained`.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; names the directory and the tensors. Of a
            recipe also: what `plan_merge` and `merge_elements` refuse.
    """
    merged = MergedTensors(open_recipe_directory(path)) if is_recipe_directory(path) else None
    place: Path | None = path
    packed: list[WeightConverter] = []
    if merged is not None:
        place = None
        auto_class, options, packed = _recipe_arguments(auto_class, path, merged, options)
    with quiet_transformers(), _load_report() as report, _merge_failures_first(merged):
        try:
            model, info = auto_class.from_pretrained(
                place,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # or transformers raises before it says which
                **options,
            )
        except RuntimeError as error:
            # Raised after the report, when tensors that make up one of the model's (the experts) do not fit together.
            names = re.findall(r"^(\S[^|\n]*?)\s*\|[^|\n]*CONVERSION", "\n".join(report), re.MULTILINE)
            if not names:
                raise
            raise CheckpointError(f"the tensors in {path} do not combine into {_listed(names)}") from error
    faults = []
    if absent := set(info["missing_keys"]) - set(missing):
        faults.append(f"without {_listed(absent)}")
    if excess := set(info["unexpected_keys"]) - set(unexpected):
        faults.append(f"with {_listed(excess)}, which it has no place for")
    if other := info["mismatched_keys"]:
        faults.append(f"with {_listed(f'{name} {list(found)} instead of {list(own)}' for name, found, own in other)}")
    if faults:
        raise CheckpointError(f"expected the tensors of {type(model).__name__} in {path}, got them {'; '.join(faults)}")
    loaded: PreTrainedModel = model
    if merged is not None:
        restore_conversions(loaded, packed)
        loaded.name_or_path = loaded.config.name_or_path = str(path)
        if loaded.can_generate() and (path / "generation_config.json").is_file():
            loaded.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
    return loaded


def _recipe_arguments(
    auto_class: Any, path: Path, merged: MergedTensors, options: dict[str, Any]
) -> tuple[Any, dict[str, Any], list[WeightConverter]]:
    """How `from_pretrained` is called with a state dict in place of a directory: on the very class, with a config.

    An Auto class insists on a directory; its `_model_mapping` is where it looks the class up.
    """
    options = dict(options)
    given = {"num_labels": options.pop("num_labels")} if "num_labels" in options else {}
    config = AutoConfig.from_pretrained(path, local_files_only=True, **given)
    known = auto_class._model_mapping
    if type(config) not in known:
        raise CheckpointError(f"{path}: {auto_class.__name__} knows no model for model_type {config.model_type!r}")
    model_class = known[type(config)]
    state_dict, packed = pack_experts(merged, model_class, config)
    return model_class, {"config": config, "state_dict": state_dict, **options}, packed


@contextmanager
def _merge_failures_first(merged: MergedTensors | None) -> Iterator[None]:
    """Of whatever follows from a merge that failed, the failure itself is raised: transformers only logs it."""
    try:
        yield
    except Exception as error:
        if merged is not None and merged.failure is not None and error is not merged.failure:
            raise merged.failure from None
        raise
    if merged is not None and merged.failure is not None:
        raise merged.failure


@contextmanager
def _load_report() -> Iterator[list[str]]:
    """What transformers logs about a load, instead of letting it be printed."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_utils")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)


def _listed(names: Collection[str] | Iterator[str]) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
