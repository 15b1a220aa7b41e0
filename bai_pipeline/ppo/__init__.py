"""PPO: mathematics, sampling and the training run."""

from bai_pipeline.ppo.engines import Parallelism
from bai_pipeline.ppo.run import Schedule, run_ppo

__all__ = ["Parallelism", "Schedule", "run_ppo"]
