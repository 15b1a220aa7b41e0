"""Jobs on checkpoints: taking in what the user brought, the table of merge weights, merging, actors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bai_pipeline.errors import CheckpointError, FitError
from bai_pipeline.jobs.context import JobContext, Metadata, Outcome

if TYPE_CHECKING:
    from bai_pipeline.merging import Recipe
    from bai_pipeline.merging.plan import MergePlan


def import_checkpoint(job: JobContext) -> Outcome:
    """Validate a checkpoint that the user brought; it is referenced where it lies, never copied."""
    from bai_pipeline.checkpoints import Checkpoint, check_finite, checkpoint_digest

    path = Path(job.spec.settings["brought"]["path"])
    checkpoint = Checkpoint.open(path)
    if job.spec.settings["role"] == "reward_model":
        from bai_pipeline.reward.model import check_reward_config

        check_reward_config(path)
        if "score.weight" not in checkpoint.tensors:
            raise CheckpointError(f"expected a reward model with a tensor score.weight, {path} has none")
    with _as_check(job, "finite", CheckpointError):
        check_finite(checkpoint)
    job.reporter.check("finite", True, tensors=len(checkpoint.tensors))
    metadata: Metadata = {"path": str(path), "tensors": len(checkpoint.tensors)}
    return Outcome(metadata, brought=path, digest=checkpoint_digest(path, job.cache))


def merge_weights(job: JobContext) -> Outcome:
    """One row per merge: Stage 1, then Stage 2 at each alpha (equations 1 and 2 of the paper)."""
    from bai_pipeline.merging.recipe import bai_recipe, stage_1_recipe

    sft_weights = job.spec.settings["sft_weights"]
    rows = []
    for alpha in [None, *map(float, job.spec.settings["alphas"])]:
        recipe = stage_1_recipe(sft_weights) if alpha is None else bai_recipe(alpha, sft_weights)
        weights = recipe.flat_weights()
        rows.append(
            {
                "merge": "merged_sft" if alpha is None else str(alpha),
                "alpha": alpha,
                "beta": None if alpha is None else 1.0 - alpha,
                "sft_weights": sft_weights,
                "weights": weights,
                "weight_sum": sum(weights.values()),
            }
        )
    (job.out / "merge_weights.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return Outcome({"rows": len(rows)})


def merge(job: JobContext) -> Outcome:
    """Stage 1: one streamed pass over the inputs."""
    from bai_pipeline.merging import Recipe
    from bai_pipeline.merging.engine import merge_planned

    recipe = Recipe.from_dict(job.spec.settings["recipe"])
    with _as_check(job, "finite", CheckpointError), _as_check(job, "identical_manifests", FitError):
        plan = _plan(job, [recipe])
        merge_planned(plan, [job.out], job.spec.code_version, job.reporter, chat_template=_template(job))
    return _merged(job, plan, finite=True)


def actor(job: JobContext) -> Outcome:
    """Stage 2 as a recipe: whoever loads it merges, and nothing is written that has a size."""
    from bai_pipeline.merging import Recipe
    from bai_pipeline.merging.recipe_directory import write_recipe_directory

    recipe = Recipe.from_dict(job.spec.settings["recipe"])
    with _as_check(job, "identical_manifests", FitError):
        plan = _plan(job, [recipe])
    for note in plan.fit.notes:
        job.reporter.log(note)
    write_recipe_directory(plan, job.out, digests=job.spec.inputs, paths=False, chat_template=_template(job))
    return _merged(job, plan, finite=False)


def actor_checkpoints(job: JobContext) -> Outcome:
    """Stage 2 at every alpha of the study, written in one pass over the inputs: a directory for each."""
    from bai_pipeline.merging import Recipe
    from bai_pipeline.merging.engine import merge_planned

    recipes = {alpha: Recipe.from_dict(recipe) for alpha, recipe in job.spec.settings["recipes"].items()}
    outs = [job.out / alpha for alpha in recipes]
    for out in outs:
        out.mkdir()
    with _as_check(job, "finite", CheckpointError), _as_check(job, "identical_manifests", FitError):
        plan = _plan(job, list(recipes.values()))
        merge_planned(plan, outs, job.spec.code_version, job.reporter, chat_template=_template(job))
    return _merged(job, plan, finite=True)


def _plan(job: JobContext, recipes: "list[Recipe]") -> "MergePlan":
    from bai_pipeline.merging.plan import plan_merge

    settings = job.spec.settings
    return plan_merge(recipes, job.inputs, settings["tokenizer_from"], settings["missing_rows_from"])


def _template(job: JobContext) -> str | None:
    template: str | None = job.spec.settings["chat_template"]
    return template


def _merged(job: JobContext, plan: "MergePlan", *, finite: bool) -> Outcome:
    """The checks that a merge passes by being done, and what a person would look up."""
    job.reporter.check("identical_manifests", True, tensors=len(plan.tensors))
    if finite:
        job.reporter.check("finite", True, tensors=len(plan.tensors))
    rows = sum(last - first for ranges in plan.missing_rows.values() for first, last in ranges)
    metadata: dict[str, float | int | str] = {"tensors": len(plan.tensors), "tensor_bytes": plan.nbytes}
    if rows:
        metadata |= {"missing_rows": rows, "missing_rows_from": str(plan.fit.donor)}
    if len(plan.recipes) == 1:
        metadata |= {f"weight_{name}": weight for name, weight in plan.recipes[0].flat_weights().items()}
    return Outcome(metadata)


@contextmanager
def _as_check(job: JobContext, name: str, error: type[CheckpointError]) -> Iterator[None]:
    """Report exactly this refusal as a failed check, too; it goes on as the error that it is."""
    try:
        yield
    except CheckpointError as refusal:
        if type(refusal) is error:
            job.reporter.check(name, False, error=str(refusal))
        raise
