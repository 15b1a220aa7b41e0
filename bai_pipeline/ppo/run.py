"""A PPO run from start to end: resume, steps, checkpoints, outputs.

`work/` survives a kill and holds everything that a later attempt continues from:

    run.json               what the run is: seed and settings
    state/                 training state            (`state`)
    metrics/               parts of the tables       (`metrics`)
    policies/ critics/     models that are kept      (`policies`): after `evaluate_at_step`, where a call ended, and the
                           best so far: after the checkpoint before which mean scores were highest
    tensorboard/           for eyes only             (`trackers`)

A step is a function of the state after the step before and of (seed, step), so an interrupted run that is started
again ends with the bytes of an undisturbed one (CPU, the same ranks and number of threads). No schedule depends on
`until_step`: asking for more steps later continues the same run, asking for fewer gives what is there. Studies that
differ in `until_step` and `evaluate_at_step` only share a run, so every model that any of them kept is written out.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bai_pipeline.errors import TrainingError, TrainingInterrupted
from bai_pipeline.ppo.engines import Parallelism
from bai_pipeline.ppo.metrics import MetricsTables, Row
from bai_pipeline.ppo.policies import KeptModels, TrainedModels, model_name
from bai_pipeline.ppo.records import StepRecord
from bai_pipeline.ppo.state import StateStore
from bai_pipeline.ppo.termination import Termination
from bai_pipeline.ppo.trackers import Tracker, TrackerName, start_trackers
from bai_pipeline.ppo.trainer import PpoTrainer
from bai_pipeline.ppo.watch import Watch, WatchRule
from bai_pipeline.progress import Reporter
from bai_pipeline.reward.scorers import Scorer
from bai_pipeline.settings import PpoSettings
from bai_pipeline.store.files import write_atomically


@dataclass(frozen=True)
class Schedule:
    """How far a call goes and what it keeps on the way."""

    until_step: int
    """The run stands at least here afterwards."""
    checkpoint_every: int
    """Steps between checkpoints; there is always one at the end."""
    evaluate_at_step: int
    """The models after this step are kept."""


def run_ppo(
    actor: Path,
    prompts: Path,
    out: Path,
    work: Path,
    settings: PpoSettings,
    seed: int,
    schedule: Schedule,
    report: Reporter,
    critic_init: Path,
    reference: Path | None,
    scorer: Scorer,
    parallelism: Parallelism | None = None,
    trackers: Sequence[TrackerName] = (),
    rule: WatchRule | None = None,
    saved: Callable[[], None] = lambda: None,
) -> dict[str, float | int | str]:
    """Train `actor` until at least `schedule.until_step` steps are done, from wherever `work` stands.

    On several ranks all of them call this with the same arguments; the first one writes and reports.

    Args:
        actor: Hugging Face directory of the initial policy; its tokenizer and chat template are the run's.
        prompts: Parquet file `{id, messages, answer?, verifier?}`.
        out: existing empty directory; receives `steps/`, `responses/`, `prefixes/` and `samples/` (Parquet),
            `policies/step-…/` and `critics/step-…/` (Hugging Face directories: every model that is kept) and
            `run.json` {until_step: where the run stands, policies, critics, best_step, stopped: null or {step, reason,
            dynamics}, see `WatchRule`}.
        work: existing directory of this run alone, which all ranks see.
        critic_init: directory of a reward model, or of a policy for a critic with a zero head.
        reference: frozen policy of the KL penalty; None: the initial actor. Loaded only if kl_coef > 0.
        scorer: called with messages, response texts and answers.
        parallelism: how models are spread over the ranks.
        trackers: where numbers go beside the tables.
        rule: how the run is watched and whether a collapse ends it; default: it is only observed.
        saved: called by the first rank whenever `work` holds a new checkpoint, and when all is trained.

    Returns:
        Numbers for the UI: first and last readings, tokens, seconds.

    Raises:
        TrainingInterrupted: SIGTERM came; the state before the unfinished step is in `work`.
        TrainingError: `work` belongs to another run or has passed `evaluate_at_step` without keeping that policy, no
            checkpoint is intact, a loss is not finite, the sampler is not the trainer. `out` is not complete then.
        CheckpointError: tensors in a directory are not exactly the model's.
        DataError: the prompts table breaks its schema.
        RewardError: the reward cannot be computed, or the critic's tokenizer is not the actor's.
    """
    _claim(work, settings, seed)
    trainer = PpoTrainer(actor, critic_init, reference, prompts, scorer, settings, seed, parallelism)
    try:
        with Termination().noticed() as termination:
            parallelism, rule = parallelism or Parallelism(), rule or WatchRule()
            run = _Run(trainer, actor, work, schedule, parallelism, report, termination, rule, saved)
            run.resume()
            run.track(trackers, f"{work.parent.name}-seed-{seed}", settings.model_dump(mode="json"))
            run.train()
            return run.publish(out)
    finally:
        trainer.close()


class _Run:
    """One call of `run_ppo`."""

    def __init__(
        self,
        trainer: PpoTrainer,
        actor: Path,
        work: Path,
        schedule: Schedule,
        parallelism: Parallelism,
        report: Reporter,
        termination: Termination,
        rule: WatchRule,
        saved: Callable[[], None],
    ) -> None:
        self._trainer, self._work, self._schedule, self._report = trainer, work, schedule, report
        self._termination, self._saved = termination, saved
        self._ranks = trainer.ranks
        self._state = StateStore(work / "state", self._ranks, parallelism.zero_stage)
        self._kept = KeptModels(work, self._ranks)
        self._tables = MetricsTables(
            work / "metrics",
            accuracy=trainer.prompts.has_answers,
            reference=trainer.reference is not None,
            routed=trainer.is_routed,
        )
        self._models = TrainedModels(trainer.policy, trainer.critic, actor)
        self._trackers: list[Tracker] = []
        self._rule, self._watch = rule, Watch(rule, report)
        self._stopped: str | None = None
        self._start = self._done = 0

    def resume(self) -> None:
        """Bring everything to the newest checkpoint."""
        evaluate_at = self._schedule.evaluate_at_step
        start, state = self._state.load_newest(self._trainer.engines, self._report)
        if state is not None:
            self._trainer.restore(state)
        self._start = self._done = start
        self._kept.resume(start)
        steps = self._kept.steps()
        if start > evaluate_at and evaluate_at not in steps:
            raise TrainingError(
                f"{self._work} stands after step {start} and kept no policy after step {evaluate_at} (it has "
                f"{', '.join(map(str, steps)) or 'none'}); nothing was trained, remove the directory to train anew"
            )
        if self._ranks.is_first:
            self._tables.resume(start)
            self._watch.resume(self._tables)
        if start == evaluate_at:
            self._kept.save(start, "evaluated", self._models)
        if start:
            self._keep_best(start)  # which a kill after the checkpoint can have prevented
        if start and start < self._schedule.until_step:
            self._report.log(f"continuing after step {start}")
        elif start:
            self._report.log(f"after step {start}: nothing to train")

    def track(self, names: Sequence[TrackerName], run: str, settings: Mapping[str, Any]) -> None:
        """Start the trackers."""
        if self._ranks.is_first and self._start < self._schedule.until_step:
            self._trackers = start_trackers(names, self._work, run, settings, self._start)

    def train(self) -> None:
        """The steps that are missing."""
        try:
            for step in range(self._start, self._schedule.until_step):
                if self._is_to_stop():
                    break
                self._step(step)
        finally:
            for tracker in self._trackers:
                tracker.close()

    def publish(self, out: Path) -> dict[str, float | int | str]:
        """Fill `out` from `work`; nothing in `work` changes by that, so it can be repeated."""
        end = self._done
        self._kept.save(end, "end", self._models)
        steps, best = self._kept.steps(), self._kept.best()
        if not self._ranks.is_first:
            return {}
        self._saved()
        self._tables.collect(out)
        for step in steps:
            shutil.copytree(self._kept.policy(step), out / "policies" / model_name(step))
            shutil.copytree(self._kept.critic(step), out / "critics" / model_name(step))
        places = {kind: {step: f"{kind}/{model_name(step)}" for step in steps} for kind in ("policies", "critics")}
        stopped = None
        if self._stopped is not None:
            stopped = {"step": end, "reason": self._stopped, "dynamics": self._rule.settings.model_dump(mode="json")}
        record = {"until_step": end, **places, "best_step": best, "stopped": stopped}
        write_atomically(out / "run.json", json.dumps(record, indent=1))
        self._watch.check()
        verdicts = {name: verdict.verdict for name, verdict in self._watch.verdicts.items()}
        return {**_summary(self._tables, self._start), **verdicts}

    def _is_to_stop(self) -> bool:
        """Whether the dynamics so far end the run; its state is then saved."""
        reason = self._ranks.agree(self._watch.reason_to_stop if self._ranks.is_first else None)
        if reason is None:
            return False
        self._stopped = reason
        self._report.log(f"stopped after step {self._done}: {reason}")
        self._checkpoint(self._done, self._trainer.state())
        return True

    def _step(self, step: int) -> None:
        """One step and what follows it."""
        before = self._trainer.state()
        try:
            record = self._trainer.step(step, self._stop_if_told)
        except TrainingInterrupted:
            self._checkpoint(step, before)
            raise
        done, schedule = step + 1, self._schedule
        self._done = done
        if self._ranks.is_first:
            self._record(record)
            self._watch.observe(record)
        self._report.progress(done, schedule.until_step, **_readings(record.steps))
        for tracker in self._trackers:
            tracker.log(step, *_tracked(record))
        if done == schedule.evaluate_at_step:
            self._kept.save(done, "evaluated", self._models)
        if done % schedule.checkpoint_every == 0 or done == schedule.until_step:
            self._checkpoint(done, self._trainer.state())
            self._keep_best(done)
        try:
            self._stop_if_told()
        except TrainingInterrupted:
            self._checkpoint(done, self._trainer.state())
            raise

    def _record(self, record: StepRecord) -> None:
        self._tables.add("steps", record.steps)
        self._tables.add("timings", record.timings)
        for table, rows in (
            ("responses", record.responses),
            ("prefixes", record.prefixes),
            ("samples", record.samples),
        ):
            for row in rows:
                self._tables.add(table, row)

    def _checkpoint(self, done: int, state: dict[str, float]) -> None:
        """The tables first: a state without its rows could not be continued."""
        if self._ranks.is_first:
            self._tables.flush(done)
        self._state.save(done, self._trainer.engines, state)
        if self._ranks.is_first:
            self._saved()

    def _keep_best(self, done: int) -> None:
        """Keep the models of this checkpoint if scores since the one before were the highest of any such time."""
        every = self._schedule.checkpoint_every
        if done % every:
            return
        is_best = False
        if self._ranks.is_first:
            scores = [float(row["score_mean"] or 0.0) for row in self._tables.rows("steps")]
            means = [fmean(scores[first : first + every]) for first in range(0, done, every)]
            is_best = means[-1] > max(means[:-1], default=float("-inf"))
        if self._ranks.agree(is_best):
            before = self._kept.best()
            self._kept.save(done, "best", self._models)
            if before not in (None, done):
                self._kept.release(before, "best")

    def _stop_if_told(self) -> None:
        """End the run if any rank was told to.

        Raises:
            TrainingInterrupted: one was.
        """
        if self._ranks.any(self._termination.requested):
            raise TrainingInterrupted("SIGTERM: the state was saved, started again the run goes on from there")


def _claim(work: Path, settings: PpoSettings, seed: int) -> None:
    """Make `work` this run's, or see that it is."""
    identity: dict[str, Any] = {"seed": seed, "settings": settings.model_dump(mode="json")}
    path = work / "run.json"
    if not path.exists():
        write_atomically(path, json.dumps(identity, indent=1, sort_keys=True))
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if found == identity:
        return
    there, now = ({"seed": run["seed"], **run["settings"]} for run in (found, identity))
    names = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    changes = ", ".join(f"{name} {there.get(name)} there, {now.get(name)} now" for name in names)
    raise TrainingError(f"{work} belongs to a run with other settings ({changes}); it was left as it is")


_SHOWN: Mapping[str, str] = {
    "length": "length_mean",
    "score": "score_mean",
    "accuracy": "accuracy",
    "kl": "kl_train_sample",
}
"""Readings of a step that a person would watch, by their short names."""


def _readings(row: Row) -> dict[str, float]:
    values = {name: row.get(column) for name, column in _SHOWN.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def _tracked(record: StepRecord) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers and texts of a step for trackers."""
    numbers = {
        f"{table}/{name}": float(value)
        for table, row in (("steps", record.steps), ("timings", record.timings))
        for name, value in row.items()
        if value is not None and name not in ("seed", "step")
    }
    numbers |= {f"value_error/{row['prefix']}": float(row["value_error"] or 0.0) for row in record.prefixes}
    return numbers, {f"samples/{row['prompt_id']}": str(row["response"]) for row in record.samples}


def _summary(tables: MetricsTables, start: int) -> dict[str, float | int | str]:
    steps, timings = tables.rows("steps"), tables.rows("timings")
    first, last = _readings(steps[0]), _readings(steps[-1])
    spent = {
        name: sum(float(row[name] or 0) for row in timings)
        for name in (
            *(f"{phase}_seconds" for phase in ("sync", "sample", "score", "estimate", "update")),
            "cpu_seconds",
        )
    }
    tokens = sum(int(row["tokens"] or 0) for row in timings)
    return {
        "steps": len(steps),
        "resumed_from_step": start,
        **{f"{name}_first_step": value for name, value in first.items()},
        **{f"{name}_last_step": value for name, value in last.items()},
        "sampled_tokens": tokens,
        "tokens_per_second": tokens / max(1e-9, spent["sample_seconds"]),
        **spent,
    }
