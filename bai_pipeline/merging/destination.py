"""Merging to directories that do not exist yet, or that hold the very merge already."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from bai_pipeline.checkpoints import (
    MANIFEST_FILE,
    Checkpoint,
    Manifest,
    checkpoint_digest,
    read_manifest,
    remember_digest,
    stamp_of,
    whole_or_absent,
)
from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging.companions import write_companions
from bai_pipeline.merging.engine import MergeOptions, merge_planned
from bai_pipeline.merging.layout import shard_layout
from bai_pipeline.merging.plan import MergePlan, plan_merge
from bai_pipeline.merging.recipe import Recipe
from bai_pipeline.progress import Reporter


def merge_to(
    recipe: Recipe,
    models: Mapping[str, Path],
    destination: Path,
    tokenizer_from: str,
    code_version: str,
    report: Reporter,
    *,
    missing_rows_from: str | None = None,
    **options: Unpack[MergeOptions],
) -> Manifest:
    """`engine.merge` into a directory that does not exist yet: whole, and synced to disk, or absent.

    Raises:
        CheckpointError: the destination exists and is not this merge; and everything that `merge` raises.
    """
    plan = plan_merge([recipe], models, tokenizer_from, missing_rows_from)
    (manifest,) = merge_plan_to(plan, {destination: recipe}, code_version, report, **options).values()
    return manifest


def merge_plan_to(
    plan: MergePlan,
    destinations: Mapping[Path, Recipe],
    code_version: str,
    report: Reporter,
    **options: Unpack[MergeOptions],
) -> dict[Path, Manifest]:
    """Merge the recipes of a plan to a directory each, in one pass; each is whole or absent.

    A destination that holds the very merge already (recipe, inputs, companions, shards) is left as it is. That costs
    no more than a look at sizes and times, where `cache` knows the digests of the inputs and of the destination.

    Raises:
        CheckpointError: a destination exists and is something else; then nothing is written to any of them.
    """
    cache = options.get("cache")
    done: dict[Path, Manifest] = {}
    for destination, recipe in destinations.items():
        if destination.exists() or destination.is_symlink():
            done[destination] = _same_merge(destination, plan, recipe, code_version, options)
            report.log(f"{destination}: is this very merge already; nothing to do")
    wanted = {destination: recipe for destination, recipe in destinations.items() if destination not in done}
    if wanted:
        with ExitStack() as stack:
            outs = [stack.enter_context(whole_or_absent(destination)) for destination in wanted]
            todo = replace(plan, recipes=tuple(wanted.values()))
            manifests = merge_planned(todo, outs, code_version, report, **options)
        for destination, manifest in zip(wanted, manifests, strict=True):
            done[destination] = manifest
            if cache is not None:
                remember_digest(destination, stamp_of(Checkpoint.open(destination)), manifest.digest, cache)
    return {destination: done[destination] for destination in destinations}


def _same_merge(
    destination: Path, plan: MergePlan, recipe: Recipe, code_version: str, options: MergeOptions
) -> Manifest:
    """The manifest of a destination that holds what the merge would write.

    Raises:
        CheckpointError: it holds something else, named, or is damaged.
    """
    if not (destination / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{destination}: already exists and is not a merged checkpoint; nothing was written")
    cache = options.get("cache")
    manifest, found = read_manifest(destination), Checkpoint.open(destination)
    layout = shard_layout(plan, options.get("max_shard_bytes"))
    with tempfile.TemporaryDirectory() as scratch:
        files = write_companions(plan, recipe, layout, Path(scratch), options.get("chat_template")).files
    differences = {
        "recipe": manifest.recipe != recipe.to_dict(),
        "code version": manifest.code_version != code_version,
        "config or tokenizer": manifest.files != files,
        "rows of added tokens": (manifest.missing_rows, manifest.missing_rows_from)
        != (plan.missing_rows, plan.fit.donor),
        "shards": {file: [t.name for t in members] for file, members in found.shards().items()}
        != {file: [t.name for t in members] for file, members in layout.items()},
    }
    other = [name for name, differs in differences.items() if differs]
    if not other:
        other = [
            name
            for name in plan.models
            if manifest.parents.get(name) != checkpoint_digest(plan.checkpoints[name].path, cache)
        ]
    if other:
        raise CheckpointError(
            f"{destination}: already exists and is another merge, it differs in {', '.join(other)}; nothing was written"
        )
    if checkpoint_digest(destination, cache) != manifest.digest:
        raise CheckpointError(
            f"{destination}: already exists and is damaged: not what {MANIFEST_FILE} recorded; nothing was written"
        )
    return manifest
