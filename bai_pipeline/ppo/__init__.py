"""PPO: mathematics, sampling and the training run."""

from bai_pipeline.ppo.run import run_ppo

__all__ = ["run_ppo"]
