"""What every kind of compute says of jobs: threads, and how training is spread over processes and memory."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from bai_pipeline.deepspeed_file import read_deepspeed
from bai_pipeline.settings import Settings

Seconds = Annotated[float, Field(gt=0.0)]
Threads = Annotated[int, Field(ge=1)]
"""Threads of a job's arithmetic on CPUs: two jobs with one thread are faster than one with two. Another number can
change the last bits of what is trained on CPUs, so all who share a store keep the same."""

SUPERVISED = ("pretrain", "finetune", "reward")
"""Kinds of job that train with supervision."""
SPREAD = ("ppo", *SUPERVISED)
"""Kinds of job that can have several ranks; all others are one process."""


class Spread(Settings):
    """How a job is spread over processes and memory."""

    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes of a job, one a GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    deepspeed: Path | dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's JSON (offloading, buckets, …), or a file of it: see deploy/deepspeed/."""

    @field_validator("deepspeed")
    @classmethod
    def _read(cls, value: Path | dict[str, Any]) -> dict[str, Any]:
        return read_deepspeed(value) if isinstance(value, Path) else value


class SupervisedExecution(Spread):
    """How the base, the SFT models and the reward model are trained; stage 0 is data parallelism without DeepSpeed.

    The router's loss (`aux_loss_coef`) is of each rank's own tokens, so with it another number of ranks trains another
    model: all who share a store keep the same.
    """


class PpoExecution(Spread):
    """How PPO is spread; the same for every PPO job."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Responses that a rank's model reads at once; None: its whole share of a mini-batch."""
    activation_checkpointing: bool = False
    frozen: Literal["plain", "zero3"] = "plain"
    """The reference model: whole on every rank, or spread over the ranks."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)


class JobsSettings(Settings):
    """The part of a compute file that all kinds of compute have."""

    threads: Threads = 1
    supervised: SupervisedExecution = SupervisedExecution()
    ppo: PpoExecution = PpoExecution()
    env: dict[str, str] = Field(default_factory=dict)
    """Added to the environment of every job."""

    def spread(self, kind: str) -> Spread | None:
        """How jobs of this kind are spread; None: they are one process."""
        return {"ppo": self.ppo, **dict.fromkeys(SUPERVISED, self.supervised)}.get(kind)

    def execution(self, kind: str) -> dict[str, Any]:
        """What the specification of a job of this kind carries of it (fields of `Execution`)."""
        spread = self.spread(kind)
        return {} if spread is None else spread.model_dump()
