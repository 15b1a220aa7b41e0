"""A sweep over nine ratios of the smoke study, and what Dagster's and the store's records say of it."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import dagster as dg

from bai_pipeline.jobs.runner import run_job
from bai_pipeline.plan import Plan
from bai_pipeline.store import Ref, Store
from bai_pipeline.study import load_study

RATIOS = [f"0.{tenth}" for tenth in range(1, 10)]
SWEPT = ["bai_actor", "ppo_run", "training_dynamics", "benchmark_scores"]
"""What one partition materializes; its jobs are two: PPO and the evaluation. Actor and diagnosis take no time."""
STUDY = "extends: smoke\nname: sweep\nalphas: [" + ", ".join(f'"{ratio}"' for ratio in RATIOS) + "]\n"


def prepare(directory: Path) -> Plan:
    """The study and a store with everything that the partitions share: data, base, SFT and reward models."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "sweep.yaml"
    path.write_text(STUDY.replace('alphas: ["0.1"', 'headline_alpha: "0.5"\nalphas: ["0.1"'), encoding="utf-8")
    plan = Plan(load_study(path), Store(directory / "store"))
    logger = logging.getLogger("sweep")
    shared = {"paradigm_1_run", "paradigm_3_run", "paradigm_dynamics", "paradigm_scores"}
    for asset in plan.assets:
        if asset in SWEPT:
            break
        if asset in shared:
            continue
        for key in [*plan.beside(asset), *plan.keys(asset)]:
            spec = plan.spec(key)
            result = run_job(spec, plan.store, logger)
            plan.store.write_ref(key, Ref(result.object, result.digest, spec.identity, dict(spec.inputs)))
    return plan


class RunTimes(NamedTuple):
    """Seconds since the epoch of what happened to a run, and seconds that its jobs took."""

    partition: str
    queued: float
    launched: float
    started: float
    ended: float
    jobs: float

    @property
    def overhead(self) -> float:
        """Seconds between being taken from the queue and the end that no job was at work."""
        return self.ended - self.launched - self.jobs


EVENTS = {
    dg.DagsterEventType.RUN_ENQUEUED: "queued",
    dg.DagsterEventType.RUN_STARTING: "launched",
    dg.DagsterEventType.RUN_START: "started",
    dg.DagsterEventType.RUN_SUCCESS: "ended",
}


def run_times(instance: dg.DagsterInstance, store: Store, filters: dg.RunsFilter) -> list[RunTimes]:
    """The times of the successful runs that the filter finds, in the order in which they were taken from the queue."""
    found = []
    for run in instance.get_runs(filters):
        at = {
            EVENTS[entry.dagster_event.event_type]: entry.timestamp
            for entry in instance.all_logs(run.run_id, of_type=set(EVENTS))
            if entry.dagster_event is not None
        }
        jobs = sum(job_seconds(store, identity) for identity in _jobs_of(instance, run.run_id))
        found.append(RunTimes(run.tags["dagster/partition"], **at, jobs=jobs))
    return sorted(found, key=lambda times: times.launched)


def _jobs_of(instance: dg.DagsterInstance, run_id: str) -> set[str]:
    """The jobs that a run's materializations name."""
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    found = set()
    for entry in logs:
        assert entry.dagster_event is not None
        metadata = entry.dagster_event.step_materialization_data.materialization.metadata
        if (job := metadata.get("job")) is not None:
            found.add(str(job.value))
    return found


def job_seconds(store: Store, identity: str) -> float:
    """Seconds from a job's order to its result, the start of its process included; 0 for one without a process."""
    directory = store.job_directory(identity)
    ordered = [path.stat().st_mtime for path in directory.glob("spec-*.json")]
    return (directory / "result.json").stat().st_mtime - min(ordered) if ordered else 0.0


def most_at_once(intervals: Iterable[tuple[float, float]]) -> int:
    """How many half-open intervals overlap at most."""
    changes = sorted(change for start, end in intervals for change in ((start, 1), (end, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def steps_of(instance: dg.DagsterInstance, runs: Sequence[str]) -> list[tuple[float, float]]:
    """Start and end of every step of these runs."""
    stats = [step for run in runs for step in instance.get_run_step_stats(run)]
    return [(s.start_time, s.end_time) for s in stats if s.start_time is not None and s.end_time is not None]


def environment(plan: Plan, directory: Path) -> Mapping[str, str]:
    """What the processes of a deployment need to know of the study."""
    return {"BAI_STUDY": str(directory / "sweep.yaml"), "BAI_STORE": str(plan.store.root)}
