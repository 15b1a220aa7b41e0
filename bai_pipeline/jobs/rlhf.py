"""The PPO job: from an actor to policies and metrics tables."""

import shutil
from pathlib import Path
from typing import Any, cast

from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.jobs.context import JobContext, Outcome, computing_with_models
from bai_pipeline.settings import PpoSettings


@computing_with_models
def ppo(job: JobContext) -> Outcome:
    """On several ranks each of them calls this; see `bai_pipeline.jobs.ranks`."""
    from bai_pipeline.ppo import Parallelism, Schedule, run_ppo
    from bai_pipeline.ppo.ranks import Ranks
    from bai_pipeline.ppo.watch import WatchRule
    from bai_pipeline.reward.scorers import build_scorer

    settings = PpoSettings.model_validate(job.spec.settings["ppo"])
    execution = job.spec.execution
    ranks = Ranks.join()
    if ranks.is_first:
        _localize(job, "actor")
        _localize(job, "critic")
    ranks.barrier()
    actor = _loadable(job, "actor")
    reward = job.spec.settings["reward"]
    scorer = build_scorer(reward["kind"], job.inputs.get("reward_model") or reward["url"] or reward["function"])
    metadata = run_ppo(
        actor=actor,
        prompts=job.inputs["prompts"] / "prompts.parquet",
        out=job.out,
        work=job.work,
        settings=settings,
        seed=job.spec.seed or 0,
        schedule=Schedule(
            until_step=execution.until_step or 1,
            checkpoint_every=execution.checkpoint_every or 1,
            evaluate_at_step=execution.evaluate_at_step or 1,
        ),
        report=job.reporter,
        critic_init=_loadable(job, "critic"),
        reference=actor if settings.kl_coef > 0 else None,
        scorer=scorer,
        parallelism=Parallelism(
            zero_stage=cast(Any, execution.zero_stage),
            deepspeed=execution.deepspeed,
            micro_batch_size=execution.micro_batch_size,
            activation_checkpointing=execution.activation_checkpointing,
            frozen=cast(Any, execution.frozen),
        ),
        trackers=cast(Any, execution.trackers),
        rule=WatchRule(cast(Any, execution.on_collapse), DynamicsSettings.model_validate(execution.dynamics)),
        saved=job.save,
    )
    return Outcome(metadata)


def _loadable(job: JobContext, name: str) -> Path:
    """An input that is a model; of a recipe, the copy that `_localize` made."""
    from bai_pipeline.merging.recipe_directory import is_recipe_directory

    path = job.inputs[name]
    return job.work / f"{name}_recipe" if is_recipe_directory(path) else path


def _localize(job: JobContext, name: str) -> None:
    """Of an input that is a recipe, make a copy that knows where the job's other inputs lie."""
    from bai_pipeline.merging.recipe_directory import is_recipe_directory, localize

    path = job.inputs[name]
    if not is_recipe_directory(path):
        return
    local = job.work / f"{name}_recipe"
    shutil.rmtree(local, ignore_errors=True)
    local.mkdir()
    models = {key.removeprefix("actor."): place for key, place in job.inputs.items() if key.startswith("actor.")}
    localize(path, models, local)
