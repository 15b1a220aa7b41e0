"""Steps of our PPO. Arguments: the task's file, and where the laps go. Options: those of `Parallelism`, and
`native_products`: whether they are used where they would be in a job.

Under torchrun every rank writes its own, `OUT.rank1` and so on beside rank 0's OUT.
"""

import os
import sys
from pathlib import Path
from typing import cast

import torch

from bai_pipeline.native import use_native_products
from bai_pipeline.ppo import Parallelism
from bai_pipeline.ppo.records import Stopwatch
from bai_pipeline.ppo.trainer import PpoTrainer
from bai_pipeline.reward.scorers import RewardModelScorer
from bai_pipeline.settings import PpoSettings
from bai_pipeline.study import load_study
from benchmarks.bench_ppo.task import Clock, Task


def main() -> None:
    task, out = Task.read(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    options = dict(task.options)
    if options.pop("native_products", True):
        use_native_products()
    root, rank = Path(task.root), int(os.environ.get("RANK", "0"))
    trainer = PpoTrainer(
        root / "actor",
        root / "reward",
        root / "actor",
        root / "prompts.parquet",
        RewardModelScorer.load(root / "reward"),
        settings(task),
        task.seed,
        Parallelism(**options),
    )
    clock = Clock()
    mark_phases(clock)
    for step in range(task.rounds):
        record = trainer.step(step)
        clock.lap([cast(int, row["length"]) for row in record.responses])
    clock.write(f"{out}.rank{rank}" if rank else out, task.warmup)


def mark_phases(clock: Clock) -> None:
    """Wherever the trainer's own stopwatch marks a phase, mark it here too: ours counts CPU seconds."""
    plainly = Stopwatch.mark

    def mark(self: Stopwatch, column: str) -> None:
        plainly(self, column)
        clock.mark(column.removesuffix("_seconds"))

    Stopwatch.mark = mark  # type: ignore[method-assign]


def settings(task: Task) -> PpoSettings:
    """Those of the micro study, with what a task decides, the KL penalty and no greedy samples for the eye."""
    own = {
        "batch_size": task.batch_size,
        "mini_batch_size": task.mini_batch_size,
        "epochs": 1,
        "actor_learning_rate": 1e-6,
        "critic_learning_rate": 1e-6,
        "kl_coef": 0.05,
        "temperature": 1.0,
        "max_prompt_tokens": task.prompt_tokens,
        "max_new_tokens": task.new_tokens,
        "sample_every": 0,
    }
    return PpoSettings(**{**load_study("micro").ppo.model_dump(), **own})


if __name__ == "__main__":
    main()
