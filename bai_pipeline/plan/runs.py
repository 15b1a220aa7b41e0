"""What the plan reads of PPO runs: how far they are, and what of them can be scored."""

import json
from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.jobspec import JobSpec, Json
from bai_pipeline.store import RefKey

RUN_FILE = "run.json"
MODEL_DIRECTORIES = ("policies", "critics")
"""Of a run's object: nearly all its bytes, and nothing that a plan, a diagnosis or a report reads."""


@dataclass(frozen=True)
class RunRecord:
    """The `run.json` of a run's object."""

    until_step: int
    policies: dict[str, str]
    """Step → directory of a policy that was kept."""
    stopped: Json | None
    """{step, reason, dynamics} of a run that its own dynamics ended."""

    @classmethod
    def read(cls, run: Path) -> "RunRecord":
        record = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
        return cls(record["until_step"], record["policies"], record.get("stopped"))


def reaches(spec: JobSpec, path: Path) -> bool:
    """Whether an object of this job is trained as far as the execution asks for; only PPO runs can fall short.

    One that was stopped by the very rule that the execution has would be stopped again: it is as far as it gets.
    """
    if spec.kind != "ppo":
        return True
    run, execution = RunRecord.read(path), spec.execution
    if run.stopped and execution.on_collapse == "stop" and run.stopped["dynamics"] == execution.dynamics:
        return True
    until, evaluate_at = execution.until_step or 0, execution.evaluate_at_step
    evaluated = evaluate_at is None or evaluate_at > until or str(evaluate_at) in run.policies
    return run.until_step >= until and evaluated


def records_of(kind: str) -> tuple[str, ...]:
    """The files of an object of this kind that `reaches` reads."""
    return (RUN_FILE,) if kind == "ppo" else ()


def run_of_scores(key: RefKey) -> RefKey | None:
    """The PPO run whose policy these scores are of; None for anything else."""
    if key.seed is None or key.asset not in ("benchmark_scores", "paradigm_scores"):
        return None
    if key.asset == "benchmark_scores":
        return RefKey(key.study, "ppo_run", key.part, key.seed)
    return RefKey(key.study, f"{key.part}_run", None, key.seed)
