"""A PPO run from start to end: resume, steps, checkpoints, outputs.

`work/` survives a kill and holds everything that a later attempt continues from:

    run.json    what the run is: seed and settings
    state/      training state            (`state`)
    metrics/    parts of the tables       (`metrics`)
    policies/   policies that are kept    (`policies`): after `evaluate_at_step`, and where a call ended

A step is a function of the state after the step before and of (seed, step), so an interrupted run that is started
again ends with the bytes of an undisturbed one (CPU, the same number of threads). No schedule depends on
`until_step`: asking for more steps later continues the same run, asking for fewer gives what is there. Studies that
differ in `until_step` and `evaluate_at_step` only share a run, so every policy that any of them kept is written out.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.engines import DEFAULT_DEEPSPEED, DeepSpeedConfig
from bai_pipeline.ppo.metrics import MetricsTables, Row
from bai_pipeline.ppo.policies import KeptPolicies, policy_name
from bai_pipeline.ppo.state import StateStore
from bai_pipeline.ppo.trainer import PpoTrainer
from bai_pipeline.progress import Reporter
from bai_pipeline.reward.scorers import Scorer
from bai_pipeline.settings import PpoSettings
from bai_pipeline.store.files import write_atomically


def run_ppo(
    actor: Path,
    prompts: Path,
    out: Path,
    work: Path,
    settings: PpoSettings,
    seed: int,
    until_step: int,
    checkpoint_every: int,
    evaluate_at_step: int,
    report: Reporter,
    critic_init: Path,
    reference: Path | None,
    scorer: Scorer,
    deepspeed: DeepSpeedConfig = DEFAULT_DEEPSPEED,
) -> dict[str, float | int | str]:
    """Train `actor` until at least `until_step` steps are done, from wherever `work` stands.

    Args:
        actor: Hugging Face directory of the initial policy; its tokenizer and chat template are the run's.
        prompts: Parquet file `{id, messages, answer?, verifier?}`.
        out: existing empty directory; receives `steps/` and `responses/` (Parquet), `policies/step-…/` (Hugging Face
            directories: every policy that is kept) and `run.json` {until_step: where the run stands, policies}.
        work: existing directory of this run alone.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        critic_init: directory of a reward model, or of a policy for a critic with a zero head.
        reference: frozen policy of the KL penalty; None: the initial actor. Loaded only if kl_coef > 0.
        scorer: called with messages, response texts and answers.
        deepspeed: ZeRO stage, precision and offloading.

    Returns:
        Numbers for the UI: first and last readings, tokens, seconds.

    Raises:
        TrainingError: `work` belongs to another run or has passed `evaluate_at_step` without keeping that policy, no
            checkpoint is intact, a loss is not finite. `out` is not complete then.
        CheckpointError: tensors in a directory are not exactly the model's.
        DataError: the prompts table breaks its schema.
        RewardError: the reward cannot be computed, or the critic's tokenizer is not the actor's.
    """
    _claim(work, settings, seed)
    trainer = PpoTrainer(actor, critic_init, reference, prompts, scorer, settings, seed, deepspeed)
    state, kept = StateStore(work / "state"), KeptPolicies(work / "policies")
    tables = MetricsTables(
        work / "metrics", accuracy=trainer.prompts.has_answers, reference=trainer.reference is not None
    )
    start = state.load_newest(trainer.engines, report)
    kept.resume(start)
    if start > evaluate_at_step and evaluate_at_step not in kept.steps():
        raise TrainingError(
            f"{work} stands after step {start} and kept no policy after step {evaluate_at_step} (it has "
            f"{', '.join(map(str, kept.steps())) or 'none'}); nothing was trained, remove the directory to train anew"
        )
    tables.resume(start)
    if start == evaluate_at_step:
        kept.save(start, trainer.policy, actor)
    if start:
        report.log(f"continuing after step {start}" if start < until_step else f"after step {start}: nothing to train")
    for step in range(start, until_step):
        record = trainer.step(step)
        tables.add("steps", record.steps)
        tables.add("timings", record.timings)
        for row in record.responses:
            tables.add("responses", row)
        done = step + 1
        report.progress(done, until_step, **_readings(record.steps))
        if done == evaluate_at_step:
            kept.save(done, trainer.policy, actor)
        if done % checkpoint_every == 0 or done == until_step:
            tables.flush(done)
            state.save(done, trainer.engines)
    end = max(start, until_step)
    kept.save(end, trainer.policy, actor)
    _write_out(out, end, tables, kept)
    return _summary(tables, start)


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


def _write_out(out: Path, end: int, tables: MetricsTables, kept: KeptPolicies) -> None:
    """Fill `out` from `work`; nothing in `work` changes, so this can be repeated."""
    tables.collect(out)
    policies = {step: f"policies/{policy_name(step)}" for step in kept.steps()}
    for step, place in policies.items():
        shutil.copytree(kept.path(step), out / place)
    write_atomically(out / "run.json", json.dumps({"until_step": end, "policies": policies}, indent=1))


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


def _summary(tables: MetricsTables, start: int) -> dict[str, float | int | str]:
    steps, timings = tables.rows("steps"), tables.rows("timings")
    first, last = _readings(steps[0]), _readings(steps[-1])
    tokens = sum(int(row["tokens"] or 0) for row in timings)
    return {
        "steps": len(steps),
        "resumed_from_step": start,
        **{f"{name}_first_step": value for name, value in first.items()},
        **{f"{name}_last_step": value for name, value in last.items()},
        "sampled_tokens": tokens,
        "cpu_seconds": sum(float(row["cpu_seconds"] or 0) for row in timings),
    }
