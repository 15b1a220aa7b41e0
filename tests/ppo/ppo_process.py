"""A PPO run in processes of its own, to be killed: `python ppo_process.py JSON`, one for each rank.

JSON: {world, work, out, settings, schedule: [until_step, checkpoint_every, evaluate_at_step], parallelism}.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bai_pipeline.errors import TrainingInterrupted
from bai_pipeline.jobs.__main__ import end
from bai_pipeline.ppo import Parallelism, Schedule, run_ppo
from bai_pipeline.reward.scorers import RewardModelScorer
from bai_pipeline.settings import PpoSettings

INTERRUPTED = 75


@dataclass
class Printer:
    """Prints the number of steps that are done, on the first rank."""

    first: bool

    def progress(self, done: int, total: int, **numbers: float) -> None:
        if self.first:
            print(done, flush=True)

    def log(self, message: str) -> None:
        return None

    def check(self, name: str, passed: bool, **metadata: float | int | str) -> None:
        return None


def start(
    world: Path,
    work: Path,
    out: Path,
    settings: PpoSettings,
    schedule: Schedule,
    parallelism: Parallelism,
    ranks: int = 1,
    environment: Mapping[str, str] | None = None,
) -> list[subprocess.Popen[str]]:
    """One process for each rank; the first one prints the steps that are done."""
    for directory in (work, out):
        directory.mkdir(exist_ok=True)
    options = {
        "world": str(world),
        "work": str(work),
        "out": str(out),
        "settings": settings.model_dump(mode="json"),
        "schedule": asdict(schedule),
        "parallelism": asdict(parallelism),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **(environment or {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[str]], timeout: float = 240) -> None:
    """Wait for all ranks.

    Raises:
        AssertionError: one failed; with what it said.
    """
    outcomes = [process.communicate(timeout=timeout) for process in processes]
    codes = [process.returncode for process in processes]
    assert not any(codes), f"exit codes {codes}\n" + "\n".join(error[-3000:] for _, error in outcomes)


def main(options: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    world = Path(options["world"])
    try:
        run_ppo(
            actor=world / "actor",
            prompts=world / "prompts.parquet",
            out=Path(options["out"]),
            work=Path(options["work"]),
            settings=PpoSettings.model_validate(options["settings"]),
            seed=0,
            schedule=Schedule(**options["schedule"]),
            report=Printer(os.environ.get("RANK", "0") == "0"),
            critic_init=world / "reward",
            reference=None,
            scorer=RewardModelScorer.load(world / "reward"),
            parallelism=Parallelism(**options["parallelism"]),
        )
    except TrainingInterrupted:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    end(main(json.loads(sys.argv[1])))
