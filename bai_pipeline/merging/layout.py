"""Which file each tensor of the output goes to."""

from collections.abc import Mapping

from bai_pipeline.checkpoints import TensorInfo
from bai_pipeline.checkpoints.directory import SINGLE_FILE
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.plan import MergePlan


def shard_layout(plan: MergePlan, max_shard_bytes: int | None) -> Mapping[str, list[TensorInfo]]:
    """The tensors of each file, in order: the first model's files, or new ones of at most so many bytes of tensors.

    A single tensor that is larger has a file of its own. One file needs no index.

    Raises:
        RecipeError: `max_shard_bytes` is not positive.
    """
    files: dict[str, list[TensorInfo]] = {}
    if max_shard_bytes is None:
        for merged in plan.tensors.values():
            files.setdefault(merged.info.file.name, []).append(merged.info)
        return files
    if max_shard_bytes < 1:
        raise RecipeError(f"the largest shard must have at least 1 byte, got {max_shard_bytes}; nothing was written")
    shards: list[list[TensorInfo]] = []
    room = 0
    for merged in plan.tensors.values():
        if not shards or merged.info.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(merged.info)
        room -= merged.info.nbytes
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, 1)}
