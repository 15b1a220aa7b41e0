"""Experts merged to where the model keeps them.

Checkpoints have a tensor per expert; transformers' models hold all experts of a layer in one. Its loader stacks and
concatenates what it was given, which copies most of a model twice. A recipe's experts are computed in their place
instead, as far as transformers' own conversions say that they are laid side by side and nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

from bai_pipeline.merging.lazy import LazyTensor, MergedTensors


def pack_experts(
    tensors: MergedTensors, model_class: type[PreTrainedModel], config: Any
) -> tuple[dict[str, LazyTensor], list[WeightConverter]]:
    """The state dict under the model's names where experts can be merged in place, else under the checkpoint's.

    Returns:
        the state dict, and the conversions that it makes unnecessary.
    """
    with torch.device("meta"):
        model = model_class(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state: dict[str, LazyTensor] = dict(tensors)
    used: list[WeightConverter] = []
    for converter in get_model_conversion_mapping(model):
        if not isinstance(converter, WeightConverter) or not _lays_side_by_side(converter):
            continue
        packed = dict(_packed(converter, shapes, tensors))
        for name, parts in packed.items():
            state[name] = tensors.joined(parts, shapes[name])
            for part in parts:
                del state[part]
        if packed:
            used.append(converter)
    return state, used


def restore_conversions(model: PreTrainedModel, packed: Sequence[WeightConverter]) -> None:
    """Let the model be saved under a checkpoint's names, as one that was loaded from them is.

    transformers reverts, when it saves, the conversions that it used when it loaded.
    """
    if packed:
        model._weight_conversions = [*packed, *(getattr(model, "_weight_conversions", None) or [])]  # type: ignore[assignment]


def _lays_side_by_side(converter: WeightConverter) -> bool:
    """One tensor per expert is stacked along dimension 0, and several kinds of them are joined along dimension 1."""
    kinds = [(type(operation), getattr(operation, "dim", None)) for operation in converter.operations]
    stacked = [(MergeModulelist, 0)]
    wanted = stacked if len(converter.source_patterns) == 1 else [*stacked, (Concatenate, 1)]
    return (
        len(converter.target_patterns) == 1
        and kinds == wanted
        and all(pattern.count("*") == 1 for pattern in converter.source_patterns)
    )


def _packed(
    converter: WeightConverter, shapes: Mapping[str, tuple[int, ...]], tensors: MergedTensors
) -> Iterator[tuple[str, list[str]]]:
    """The model's tensors that consist of the checkpoint's, expert after expert, and these in order."""
    (target,) = converter.target_patterns
    for name, shape in shapes.items():
        if not name.endswith(target):
            continue
        prefix = name.removesuffix(target)
        parts = [prefix + source.replace("*", str(e)) for e in range(shape[0]) for source in converter.source_patterns]
        if all(part in tensors for part in parts):
            found = [tensors[part].get_shape() for part in parts]
            fits = all(len(part) == len(shape) - 1 and part[1:] == list(shape[2:]) for part in found)
            one_dtype = len({tensors[part].get_dtype() for part in parts}) == 1
            if fits and one_dtype and sum(map(prod, found)) == prod(shape):
                yield name, parts
