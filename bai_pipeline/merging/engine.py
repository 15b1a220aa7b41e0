"""The merge engine: one pass over the inputs, in chunks, in float32, rounded once.

Arithmetic is torch's float32 multiplication and addition, both correctly rounded, in the order of the recipe; the
result is rounded to nearest, ties to even. So the same inputs give the same bytes on any machine. Memory is a few
chunks per model, whatever the size of the checkpoints.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bai_pipeline.checkpoints import (
    CHUNK_ELEMENTS,
    Checkpoint,
    Manifest,
    Reader,
    ShardWriter,
    TensorInfo,
    TensorRecord,
    check_fit,
    emptied_on_failure,
    first_non_finite,
    read_manifest,
    whole_or_absent,
    write_manifest,
)
from bai_pipeline.errors import CheckpointError, RecipeError
from bai_pipeline.merging.companions import write_companions
from bai_pipeline.merging.methods import find_method
from bai_pipeline.merging.nodes import ModelNode, Node
from bai_pipeline.merging.recipe import Recipe
from bai_pipeline.merging.record import check_recorded_recipe
from bai_pipeline.merging.streaming import TORCH_DTYPES, ModelStream
from bai_pipeline.progress import Reporter

_REPORT_EVERY = 64 * 1024 * 1024
"""Bytes of output between two progress reports."""


def merge(
    recipe: Recipe,
    models: Mapping[str, Path],
    out: Path,
    tokenizer_from: str,
    code_version: str,
    report: Reporter,
    *,
    chat_template: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """Merge checkpoints into the empty directory `out`, which is empty again when anything fails.

    The shards, names and config are those of the recipe's first model (of dtype `recipe.dtype`, when it has one);
    tokenizer, chat template and generation config are copied from `tokenizer_from`; recipe.json and the manifest are
    written last.

    Args:
        models: the directory of every model of the recipe and of `tokenizer_from`.
        chat_template: a Jinja template in place of the tokenizer's own.
        digests: content digests that models must turn out to have (those that the merge was ordered with).

    Returns:
        the manifest; its parents are the digests of the bytes that were read.

    Raises:
        RecipeError: weights out of range, or a model that `models` has not.
        FitError: the checkpoints cannot be combined.
        CheckpointError: a checkpoint is malformed, damaged, of a dtype that cannot be merged, or holds NaN or infinity.
    """
    with emptied_on_failure(out):
        recipe.check()
        checkpoints = _open_models(recipe, models, tokenizer_from)
        for note in check_fit(checkpoints):
            report.log(note)
        base = checkpoints[recipe.models[0]]
        shards = {file: _output_tensors(tensors, recipe) for file, tensors in base.shards().items()}
        with Reader() as reader:
            streams = {name: ModelStream(name, checkpoints[name], reader) for name in recipe.models}
            records = _write_shards(recipe, streams, shards, out, report)
        parents = {name: stream.digest() for name, stream in streams.items()}
        _check_digests(parents, digests or {})
        companions = write_companions(recipe, base, checkpoints[tokenizer_from], shards, out, chat_template)
        manifest = Manifest(
            code_version=code_version,
            parents=parents,
            recipe=recipe.to_dict(),
            recipe_sha256=companions.recipe_sha256,
            files=companions.files,
            tensors=records,
        )
        write_manifest(out, manifest)
        check_recorded_recipe(read_manifest(out), recipe)
    return manifest


def merge_to(
    recipe: Recipe,
    models: Mapping[str, Path],
    destination: Path,
    tokenizer_from: str,
    code_version: str,
    report: Reporter,
    *,
    chat_template: str | None = None,
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """`merge` into a directory that does not exist yet: whole, and synced to disk, or absent.

    Raises:
        CheckpointError: the destination exists; and everything that `merge` raises.
    """
    with whole_or_absent(destination) as partial:
        return merge(
            recipe,
            models,
            partial,
            tokenizer_from,
            code_version,
            report,
            chat_template=chat_template,
            digests=digests,
        )


def _open_models(recipe: Recipe, models: Mapping[str, Path], tokenizer_from: str) -> dict[str, Checkpoint]:
    """The recipe's models in its order, then the tokenizer's when it is not one of them."""
    names = list(dict.fromkeys([*recipe.models, tokenizer_from]))
    unknown = [name for name in names if name not in models]
    if unknown:
        known = ", ".join(sorted(models))
        raise RecipeError(f"unknown model {', '.join(unknown)}, expected one of {known}; no checkpoint was written")
    checkpoints = {name: Checkpoint.open(models[name]) for name in names}
    for tensor in checkpoints[names[0]].tensors.values():
        if tensor.dtype not in TORCH_DTYPES:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name} of {names[0]} is {tensor.dtype}, expected one of "
                f"{', '.join(TORCH_DTYPES)}; no checkpoint was written"
            )
    return checkpoints


def _output_tensors(tensors: Sequence[TensorInfo], recipe: Recipe) -> list[TensorInfo]:
    return [replace(tensor, dtype=recipe.dtype or tensor.dtype) for tensor in tensors]


def _write_shards(
    recipe: Recipe,
    streams: Mapping[str, ModelStream],
    shards: Mapping[str, Sequence[TensorInfo]],
    out: Path,
    report: Reporter,
) -> dict[str, TensorRecord]:
    evaluate = _compile(recipe.root)
    total = sum(tensor.nbytes for tensors in shards.values() for tensor in tensors)
    records: dict[str, TensorRecord] = {}
    done = reported = 0
    for file, tensors in shards.items():
        with ShardWriter(out / file, tensors) as writer:
            for tensor in tensors:
                writer.write(tensor, _merged_chunks(tensor, streams, evaluate))
                for stream in streams.values():
                    stream.finish(tensor.name)
                done += tensor.nbytes
                if done - reported >= _REPORT_EVERY or done == total:
                    report.progress(done, total)
                    reported = done
        records |= writer.records
    return records


def _merged_chunks(
    tensor: TensorInfo, streams: Mapping[str, ModelStream], evaluate: "Evaluate"
) -> Iterator[memoryview]:
    """The bytes of one tensor of the output."""
    for element in range(0, tensor.elements, CHUNK_ELEMENTS):
        count = min(CHUNK_ELEMENTS, tensor.elements - element)
        merged = evaluate({name: stream.read(tensor.name, element, count) for name, stream in streams.items()})  # (E,)
        data = merged.to(TORCH_DTYPES[tensor.dtype]).view(torch.uint8).numpy().data
        position = first_non_finite(data, tensor.dtype)
        if position is not None:
            raise CheckpointError(
                f"tensor {tensor.name}: the merged value at flat position {element + position} is out of the range of "
                f"{tensor.dtype}, though its inputs are finite; no checkpoint was written"
            )
        yield data


Evaluate = Callable[[Mapping[str, Tensor]], Tensor]
"""The chunks of all models, (E,) float32 each, to the merged chunk."""


def _compile(node: Node) -> Evaluate:
    """A node as a function of the models' chunks; its weights are rounded to float32 here, once."""
    if isinstance(node, ModelNode):
        name = node.model
        return lambda chunks: chunks[name]
    combine = find_method(node.method).combine
    inputs = [_compile(input.node) for input in node.inputs]
    weights = [float(np.float32(input.weight)) for input in node.inputs]
    return lambda chunks: combine([evaluate(chunks) for evaluate in inputs], weights)


def _check_digests(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    for name, digest in found.items():
        if expected.get(name, digest) != digest:
            raise CheckpointError(
                f"{name} has the content digest {digest}, expected {expected[name]}: it has changed since the merge "
                "was ordered; no checkpoint was written"
            )
