"""Jobs that train with supervision: the base, the SFT models, the reward model."""

from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.settings import ModelSettings, TrainingSettings


def pretrain(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    model = ModelSettings.model_validate(job.spec.settings["model"])
    table = job.inputs["data"] / "pretraining.parquet"
    return Outcome(sft.pretrain(table, job.out, model, _training(job), _seed(job), job.reporter))


def finetune(job: JobContext) -> Outcome:
    from bai_pipeline.sft import training as sft

    (table,) = job.inputs["data"].glob("*.parquet")
    template = job.spec.settings["chat_template"]
    base = job.inputs["base"]
    return Outcome(sft.finetune(base, table, job.out, _training(job), _seed(job), job.reporter, chat_template=template))


def reward(job: JobContext) -> Outcome:
    from bai_pipeline.reward.training import train_reward_model

    table = job.inputs["preferences"] / "preferences.parquet"
    return Outcome(train_reward_model(job.inputs["init"], table, job.out, _training(job), _seed(job), job.reporter))


def _training(job: JobContext) -> TrainingSettings:
    return TrainingSettings.model_validate(job.spec.settings["training"])


def _seed(job: JobContext) -> int:
    return 0 if job.spec.seed is None else job.spec.seed
