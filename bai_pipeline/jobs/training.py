"""Jobs that train with supervision: the base, the SFT models, the reward model."""

from bai_pipeline.jobs.context import JobContext, Metadata, Outcome
from bai_pipeline.settings import ModelSettings, TrainingSettings


def pretrain(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    model = ModelSettings.model_validate(job.spec.settings["model"])
    table = job.inputs["data"] / "pretraining.parquet"
    metadata = sft.pretrain(table, job.out, model, _training(job), _seed(job), job.reporter)
    return _described(job, metadata)


def finetune(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    (table,) = job.inputs["data"].glob("*.parquet")
    template = job.spec.settings["chat_template"]
    base, report = job.inputs["base"], job.reporter
    metadata = sft.finetune(base, table, job.out, _training(job), _seed(job), report, chat_template=template)
    return _described(job, metadata)


def reward(job: JobContext) -> Outcome:
    from bai_pipeline.reward.training import train_reward_model

    table = job.inputs["preferences"] / "preferences.parquet"
    metadata = train_reward_model(job.inputs["init"], table, job.out, _training(job), _seed(job), job.reporter)
    return _described(job, metadata)


def _described(job: JobContext, metadata: Metadata) -> Outcome:
    """Give a trained checkpoint its manifest: what it was made of, and digests of all its tensors."""
    from bai_pipeline.checkpoints import Checkpoint, describe, write_manifest

    checkpoint = Checkpoint.open(job.out)
    manifest = describe(checkpoint, code_version=job.spec.code_version, parents=job.spec.inputs)
    write_manifest(job.out, manifest)
    return Outcome(metadata)


def _training(job: JobContext) -> TrainingSettings:
    return TrainingSettings.model_validate(job.spec.settings["training"])


def _seed(job: JobContext) -> int:
    return 0 if job.spec.seed is None else job.spec.seed
