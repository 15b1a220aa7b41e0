"""Loading of Hugging Face models in which every tensor is the checkpoint's.

transformers initialises a tensor at random that a checkpoint lacks, or has in another shape, and drops one that the
model has no place for; it says so in its log only.
"""

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bai_pipeline.errors import CheckpointError
from bai_pipeline.quiet import quiet_transformers

SCORE_HEAD = "score.weight"
LANGUAGE_HEAD = "lm_head.weight"

_SHOWN = 5


def load_model(
    auto_class: Any, path: Path, *, missing: Collection[str] = (), unexpected: Collection[str] = (), **options: Any
) -> PreTrainedModel:
    """`auto_class.from_pretrained` on a local directory of safetensors, with nothing random and nothing left over.

    A tied head that a checkpoint leaves out is not missing.

    Args:
        auto_class: one of transformers' Auto classes for models.
        missing: tensors that the checkpoint may lack.
        unexpected: tensors that it may have in excess.
        options: further arguments of `from_pretrained`.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; names the directory and the tensors.
    """
    with quiet_transformers(), _load_report() as report:
        try:
            model, info = auto_class.from_pretrained(
                path,
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
    return loaded


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
