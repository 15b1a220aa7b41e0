"""The parts of the benchmark; each returns its raw numbers."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_merge.measurement import BenchmarkError, measure
from benchmarks.bench_ppo.contestants import (
    OURS,
    OURS_BY_TORCH,
    PROGRAMS,
    SAMPLERS,
    TRL_VARIANTS,
    VARIABLES,
    Contestant,
    Run,
    ranks,
    run,
    vllm,
)
from benchmarks.bench_ppo.summary import fastest, rate
from benchmarks.bench_ppo.task import Task

SCENARIOS: Final = {
    "fixed": ("fixed length", 0.0, 1.5),
    "natural": ("natural end", 1 / 40, 2.5),
    "longer": ("natural end, longer responses", 1 / 80, None),
}
"""Title, probability of the end token at every position, and the target: times TRL's samples per CPU second."""
RANKS: Final = (1, 2)
PILOT_STEPS: Final = 2

Raw = dict[str, Any]


@dataclass(frozen=True)
class Workshop:
    """Where to work, how often, and whom to tell."""

    work: Path
    repeats: int
    say: Callable[[str], None]

    def task(self, scenario: str, **changes: Any) -> Task:
        """The task of a scenario, with its models and prompts made."""
        root = self.work / scenario
        task = replace(Task(str(root), SCENARIOS[scenario][1]), **changes)
        if not (root / "prompts.json").is_file():
            root.mkdir(parents=True, exist_ok=True)
            task.write(root / "task.json")
            measure([sys.executable, "-m", f"{PROGRAMS}.world", root / "task.json"], root / "world.log", VARIABLES)
        return task

    def once(self, contestant: Contestant, task: Task) -> Run:
        found = run(contestant, task, self.work)
        cpu, wall = rate(found, task.batch_size, "cpu"), rate(found, task.batch_size, "wall")
        self.say(f"{contestant.title}: {cpu:.2f} samples per CPU second, {wall:.2f} per second")
        return found

    def interleave(self, contestants: Mapping[str, Contestant], task: Task) -> dict[str, list[Run]]:
        """Each contestant once a round, so that what disturbs the machine disturbs all; each round has its seed."""
        runs: dict[str, list[Run]] = {name: [] for name in contestants}
        for number in range(self.repeats):
            for name, contestant in contestants.items():
                runs[name].append(self.once(contestant, replace(task, seed=task.seed + number)))
        return runs


def measure_pilot(workshop: Workshop, scenarios: Sequence[str]) -> Raw:
    """A few counted steps of each of TRL's settings."""
    runs = {}
    for scenario in scenarios:
        task = workshop.task(scenario, steps=PILOT_STEPS)
        workshop.say(f"pilot, {scenario}")
        runs[scenario] = {name: workshop.once(one, task) for name, one in TRL_VARIANTS.items()}
    return runs


def choices(pilot: Raw, scenarios: Sequence[str], batch_size: int) -> dict[str, str]:
    """The setting of TRL that each scenario is measured with: the fastest of the pilot, else the first."""
    default = next(iter(TRL_VARIANTS))
    return {name: fastest(pilot[name], batch_size) if name in pilot else default for name in scenarios}


def measure_training(workshop: Workshop, chosen: Mapping[str, str], **changes: Any) -> Raw:
    """Ours and TRL's in turns."""
    found = {}
    for scenario, variant in chosen.items():
        workshop.say(f"training, {scenario}")
        contestants = {"ours": OURS, "ours by torch": OURS_BY_TORCH, "trl": TRL_VARIANTS[variant]}
        found[scenario] = workshop.interleave(contestants, workshop.task(scenario, **changes))
    return found


def measure_sampling(workshop: Workshop, scenarios: Sequence[str], notes: list[str], **changes: Any) -> Raw:
    """Our sampler and others'."""
    contestants = dict(SAMPLERS)
    if (engine := vllm()) is not None:
        contestants["vllm"] = engine
    else:
        notes.append("vLLM's sampler: BAI_VLLM_PYTHON does not say where its Python is")
    found = {}
    for scenario in scenarios:
        workshop.say(f"sampling, {scenario}")
        found[scenario] = workshop.interleave(contestants, workshop.task(scenario, **changes))
    return found


def measure_ranks(workshop: Workshop, scenario: str, notes: list[str], **changes: Any) -> Raw:
    """Our PPO on one rank and on two, with the same batch; nothing where it fails."""
    workshop.say(f"ranks, {scenario}")
    task = workshop.task(scenario, **changes)
    try:
        return {"scenario": scenario, "runs": workshop.interleave({str(n): ranks(n) for n in RANKS}, task)}
    except BenchmarkError as error:
        notes.append(f"our PPO on {' and '.join(map(str, RANKS))} ranks: {last_line(error)}")
        workshop.say(notes[-1])
        return {}


def last_line(error: BenchmarkError) -> str:
    """The line of a failed program's log that names its exception, else the log's last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return (named or lines)[-1]
