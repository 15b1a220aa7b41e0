"""A PPO run in a process of its own, to be killed: `python ppo_process.py WORLD WORK OUT SETTINGS STEPS EVERY`."""

import sys
from pathlib import Path

import torch

from bai_pipeline.ppo import run_ppo
from bai_pipeline.reward.scorers import RewardModelScorer
from bai_pipeline.settings import PpoSettings


class Printer:
    """Prints the number of steps that are done."""

    def progress(self, done: int, total: int, **numbers: float) -> None:
        print(done, flush=True)

    def log(self, message: str) -> None:
        return None

    def check(self, name: str, passed: bool, **metadata: float | int | str) -> None:
        return None


def main(world: Path, work: Path, out: Path, settings: str, steps: int, every: int) -> None:
    torch.set_num_threads(1)
    run_ppo(
        actor=world / "actor",
        prompts=world / "prompts.parquet",
        out=out,
        work=work,
        settings=PpoSettings.model_validate_json(settings),
        seed=0,
        until_step=steps,
        checkpoint_every=every,
        evaluate_at_step=2,
        report=Printer(),
        critic_init=world / "reward",
        reference=None,
        scorer=RewardModelScorer.load(world / "reward"),
    )


if __name__ == "__main__":
    world, work, out = map(Path, sys.argv[1:4])
    main(world, work, out, sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
