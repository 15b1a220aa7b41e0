"""Who runs: programs of their own processes, in their own environments, on one thread."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_merge.measurement import BenchmarkError, measure
from benchmarks.bench_ppo.task import Task

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = "benchmarks.bench_ppo.programs"
TRL: Final = ROOT / ".peers" / "trl" / "bin" / "python"
VLLM_VARIABLE: Final = "BAI_VLLM_PYTHON"
TORCHRUN: Final = (sys.executable, "-m", "torch.distributed.run", "--standalone")

VARIABLES: Final = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONWARNINGS": "ignore",
}
"""Of every program's environment."""

Run = dict[str, Any]
"""What one process left: its laps, and its peak memory."""


@dataclass(frozen=True)
class Contestant:
    """A program, and what it is told beside the task."""

    title: str
    program: str
    options: Mapping[str, Any]
    python: Path = Path(sys.executable)
    ranks: int = 0
    """Started by torchrun with so many; 0: plainly."""

    def command(self, task: Path, out: Path) -> list[str | Path]:
        if not self.ranks:
            return [self.python, "-m", f"{PROGRAMS}.{self.program}", task, out]
        return [*TORCHRUN, "--nproc-per-node", str(self.ranks), "-m", f"{PROGRAMS}.{self.program}", task, out]


OURS: Final = Contestant("bai_pipeline", "train_ours", {"micro_batch_size": 8})
OURS_BY_TORCH: Final = Contestant(
    "bai_pipeline, products by torch", "train_ours", {"micro_batch_size": 8, "native_products": False}
)
"""Without the native products that jobs use where MKL is held back."""
TRL_VARIANTS: Final = {
    title: Contestant(title, "train_trl", options, TRL)
    for title, options in (
        ("TRL 1.12.0, grouped_mm", {"experts": "grouped_mm"}),
        ("TRL 1.12.0, grouped_mm, no cache in forward passes", {"experts": "grouped_mm", "forward_cache": False}),
        ("TRL 1.12.0, grouped_mm, 16 responses sampled at a time", {"experts": "grouped_mm", "rollout_batch": 16}),
        ("TRL 1.12.0, eager", {"experts": "eager"}),
    )
}
"""What a user of TRL would try; the pilot says which is fastest."""
SAMPLERS: Final = {
    "embedded": Contestant("embedded sampler", "sample", {"sampler": "embedded"}),
    "generate grouped_mm": Contestant(
        "transformers generate, grouped_mm", "sample", {"sampler": "generate", "experts": "grouped_mm"}
    ),
    "generate eager": Contestant("transformers generate, eager", "sample", {"sampler": "generate", "experts": "eager"}),
}


def vllm() -> Contestant | None:
    """vLLM's sampler, if the environment says where its Python is."""
    python = os.environ.get(VLLM_VARIABLE)
    return Contestant("vLLM on the CPU", "sample_vllm", {}, Path(python)) if python else None


def ranks(count: int) -> Contestant:
    """Our PPO under torchrun."""
    return replace(OURS, title=f"{OURS.title}, {count} rank{'s' * (count > 1)}", ranks=count)


def run(contestant: Contestant, task: Task, work: Path) -> Run:
    """One process (or one per rank), from start to end.

    Returns:
        laps, one a step, with CPU seconds over all ranks and the wall seconds of the slowest; and `peak_rss`, bytes of
        the largest process.

    Raises:
        BenchmarkError: it failed.
    """
    if not contestant.python.is_file():
        raise BenchmarkError(f"{contestant.python} is not there; see `make bench-ppo`")
    name = contestant.program
    described, out, log = work / f"{name}.task.json", work / f"{name}.laps.json", work / f"{name}.log"
    replace(task, options=contestant.options).write(described)
    for stale in work.glob(f"{out.name}*"):
        stale.unlink()
    cost = measure(contestant.command(described, out), log, VARIABLES)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(work.glob(f"{out.name}*"))]
    expected = max(1, contestant.ranks)
    if len(found) != expected:
        raise BenchmarkError(f"{contestant.title}: {len(found)} of {expected} ranks left laps; see {log}")
    return {**found[0], "laps": together([one["laps"] for one in found]), "peak_rss": cost.peak_rss}


def together(ranks: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The laps of all ranks as those of one process: CPU seconds added, wall seconds of the slowest."""
    return [
        {
            **laps[0],
            "cpu": sum(lap["cpu"] for lap in laps),
            "wall": max(lap["wall"] for lap in laps),
        }
        for laps in zip(*ranks, strict=True)
    ]
