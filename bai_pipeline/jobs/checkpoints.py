"""Jobs on checkpoints: taking in what the user brought, the table of merge weights, merging."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bai_pipeline.errors import CheckpointError, FitError
from bai_pipeline.jobs.context import JobContext, Metadata, Outcome


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
    """Stage 1 or Stage 2: one streamed pass over the inputs."""
    from bai_pipeline.merging import Recipe
    from bai_pipeline.merging.engine import merge as merge_checkpoints

    settings = job.spec.settings
    recipe = Recipe.from_json(json.dumps(settings["recipe"]))
    with _as_check(job, "finite", CheckpointError), _as_check(job, "identical_manifests", FitError):
        manifest = merge_checkpoints(
            recipe,
            job.inputs,
            job.out,
            tokenizer_from=settings["tokenizer_from"],
            code_version=job.spec.code_version,
            report=job.reporter,
            chat_template=settings["chat_template"],
        )
    job.reporter.check("identical_manifests", True, tensors=len(manifest.tensors))
    job.reporter.check("finite", True, tensors=len(manifest.tensors))
    return Outcome({"tensors": len(manifest.tensors), **{f"weight_{k}": v for k, v in recipe.flat_weights().items()}})


@contextmanager
def _as_check(job: JobContext, name: str, error: type[CheckpointError]) -> Iterator[None]:
    """Report exactly this refusal as a failed check, too; it goes on as the error that it is."""
    try:
        yield
    except CheckpointError as refusal:
        if type(refusal) is error:
            job.reporter.check(name, False, error=str(refusal))
        raise
