"""Jobs that train with supervision: the base, the SFT models, the reward model."""

from typing import TYPE_CHECKING

from bai_pipeline.jobs.context import JobContext, Metadata, Outcome, computing_with_models
from bai_pipeline.jobs.ranks import is_follower
from bai_pipeline.settings import ModelSettings, TrainingSettings

if TYPE_CHECKING:
    from bai_pipeline.sft.trainer import DeepSpeedConfig


@computing_with_models
def pretrain(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    model = ModelSettings.model_validate(job.spec.settings["model"])
    table = job.inputs["data"] / "pretraining.parquet"
    metadata = sft.pretrain(table, job.out, model, _training(job), _seed(job), job.reporter, deepspeed=_deepspeed(job))
    return _described(job, metadata)


@computing_with_models
def finetune(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    (table,) = job.inputs["data"].glob("*.parquet")
    template = job.spec.settings["chat_template"]
    metadata = sft.finetune(
        job.inputs["base"],
        table,
        job.out,
        _training(job),
        _seed(job),
        job.reporter,
        chat_template=template,
        deepspeed=_deepspeed(job),
    )
    return _described(job, metadata)


@computing_with_models
def reward(job: JobContext) -> Outcome:
    from bai_pipeline.reward.training import train_reward_model

    table = job.inputs["preferences"] / "preferences.parquet"
    metadata = train_reward_model(
        job.inputs["init"], table, job.out, _training(job), _seed(job), job.reporter, deepspeed=_deepspeed(job)
    )
    return _described(job, metadata)


def _described(job: JobContext, metadata: Metadata) -> Outcome:
    """Give a trained checkpoint its manifest: what it was made of, and digests of all its tensors."""
    from bai_pipeline.checkpoints import Checkpoint, describe, write_manifest

    if is_follower():  # the first rank wrote it
        return Outcome(metadata)
    checkpoint = Checkpoint.open(job.out)
    manifest = describe(checkpoint, code_version=job.spec.code_version, parents=job.spec.inputs)
    write_manifest(job.out, manifest)
    return Outcome(metadata)


def _training(job: JobContext) -> TrainingSettings:
    return TrainingSettings.model_validate(job.spec.settings["training"])


def _deepspeed(job: JobContext) -> "DeepSpeedConfig | None":
    """None on one rank, and under ZeRO 0, which is data parallelism."""
    execution = job.spec.execution
    if execution.ranks == 1 or execution.zero_stage == 0:
        return None
    zero = {**execution.deepspeed.get("zero_optimization", {}), "stage": execution.zero_stage}
    if execution.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {**execution.deepspeed, "zero_optimization": zero}


def _seed(job: JobContext) -> int:
    return 0 if job.spec.seed is None else job.spec.seed
