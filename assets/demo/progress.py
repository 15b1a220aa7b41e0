"""How far the demo is and how long it will take, from what jobs write into the store."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from assets.demo.tasks import Task
from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey

GUESSES = {
    "base_model": 260.0,
    "instruct_sft": 25.0,
    "reasoning_sft": 40.0,
    "preference_data": 20.0,
    "reward_model": 30.0,
    "ppo_run": 35.0,
    "paradigm_1_run": 35.0,
    "paradigm_3_run": 45.0,
    "benchmark_scores": 12.0,
    "paradigm_scores": 12.0,
}
"""Seconds a job of the study `micro` takes on one core, by asset; corrected by what has been measured here."""
OTHER = 3.0
START = 8.0
"""Seconds that a Dagster run takes beside its jobs."""


class Progress:
    """The jobs of a plan, as the store shows them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def job_directory(self, key: RefKey) -> Path | None:
        """Where the job of a ref works; None as long as something upstream is missing."""
        try:
            return self.plan.store.root / "jobs" / self.plan.spec(key).identity
        except StoreError:
            return None

    def current(self, task: Task) -> RefKey | None:
        """The first ref of a task whose job has no result yet."""
        for key in task.keys:
            directory = self.job_directory(key)
            if directory is None or not (directory / "result.json").is_file():
                return key
        return None

    def describe(self, task: Task) -> str:
        """What a task does now: "alpha 0.5: ppo_run 12/20"."""
        key = self.current(task)
        if key is None:
            return f"{task.name}: checking"
        counts = _read(self.job_directory(key))
        part = f" {key.part}" if key.part not in (None, task.alpha) else ""
        return f"{task.name}: {key.asset}{part}" + (f" {counts[0]}/{counts[1]}" if counts else "")

    def seconds_left(self, running: Iterable[Task], waiting: Iterable[Task], at_a_time: int) -> float:
        """An estimate for all tasks, from the jobs measured so far."""
        measured = self._measured()
        known = [asset for asset in measured if asset in GUESSES]
        pace = fmean(fmean(measured[a]) / GUESSES[a] for a in known) if known else 1.0

        def job(asset: str) -> float:
            return fmean(measured[asset]) if asset in measured else GUESSES.get(asset, OTHER) * pace

        started = [self._task_left(task, job) for task in running]
        others = [START + sum(job(key.asset) for key in task.keys) for task in waiting]
        return max([*started, sum(started + others) / at_a_time], default=0.0)

    def spent(self) -> list[str]:
        """Where the time of the study's jobs went, the largest part first: "base_model: 167 s in 1 job"; assets below a
        second in one line; of PPO, too, how much each phase of a step took."""
        totals = sorted(((sum(each), len(each), asset) for asset, each in self._measured().items()), reverse=True)
        large = [part for part in totals if part[0] >= 1]
        if small := totals[len(large) :]:
            large.append((sum(part[0] for part in small), sum(part[1] for part in small), f"{len(small)} others"))
        lines = [f"{name}: {total:.0f} s in {count} job{'s' * (count > 1)}" for total, count, name in large]
        phases = self._phases()
        if any(phases.values()):
            parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phases.items())
            lines.append(f"of the PPO runs: {parts}; the rest is loading and saving")
        return lines

    def _phases(self) -> dict[str, float]:
        """Seconds of all PPO steps, by phase."""
        phases = dict.fromkeys(("sample", "score", "estimate", "update"), 0.0)
        for key in self.plan.all_keys():
            directory = self.job_directory(key) if key.asset.endswith("_run") else None
            if directory is not None and (directory / "result.json").is_file():
                metadata = json.loads((directory / "result.json").read_text(encoding="utf-8"))["metadata"]
                for name in phases:
                    phases[name] += metadata.get(f"{name}_seconds", 0.0)
        return phases

    def _task_left(self, task: Task, job: Callable[[str], float]) -> float:
        current = self.current(task)
        if current is None:
            return 0.0
        rest = sum(job(key.asset) for key in task.keys[task.keys.index(current) + 1 :])
        directory = self.job_directory(current)
        counts = _read(directory)
        if directory is None or counts is None:
            return rest + job(current.asset)
        # The guess counts for as much as is still to do: the first units also paid for the job's start.
        elapsed, undone = time.time() - (directory / "attempts.jsonl").stat().st_mtime, 1 - counts[0] / counts[1]
        return rest + undone * (elapsed + undone * job(current.asset))

    def _measured(self) -> dict[str, list[float]]:
        """Seconds that finished jobs took, by asset."""
        measured: dict[str, list[float]] = {}
        for key in self.plan.all_keys():
            ref = self.plan.store.read_ref(key)
            directory = self.plan.store.root / "jobs" / ref.job if ref else None
            if directory and (directory / "attempts.jsonl").is_file() and (directory / "result.json").is_file():
                took = (directory / "result.json").stat().st_mtime - (directory / "attempts.jsonl").stat().st_mtime
                measured.setdefault(key.asset, []).append(took)
        return measured


def _read(directory: Path | None) -> tuple[int, int] | None:
    """Units of a job that are done, and all of them; None before its first report."""
    try:
        value = json.loads((directory / "progress.json").read_text(encoding="utf-8")) if directory else None
    except FileNotFoundError:
        return None
    return (int(value["done"]), int(value["total"])) if value else None
