"""What a study writes, and how long it runs."""

from dataclasses import asdict, dataclass
from typing import Final

from bai_pipeline.settings import PpoSettings
from bai_pipeline.sizing.footprint import ELEMENT_BYTES
from bai_pipeline.sizing.ppo_memory import Models
from bai_pipeline.sizing.zero import Stage
from bai_pipeline.study import Study

KEPT_STATES: Final = 2
"""Training states that a run keeps (`KEEP` in bai_pipeline/ppo/state.py); one more is there while it is written."""

DAY: Final = 86_400.0
"""Seconds."""


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    training_state: int
    """One checkpoint of a run's own state: actor and critic with their optimizers."""
    kept_models: int
    """Actor and critic as Hugging Face directories, after one step."""
    run: int
    """All that a run holds at a time."""
    runs: int
    """How many runs the study has."""
    merged: int
    """The Stage 1 merge, and the actors where the study wants them written."""
    sweep: int
    """The whole study; what is brought by path stays where it is."""


@dataclass(frozen=True)
class Duration:
    """How long a study trains, at a throughput."""

    step_seconds: float
    steps_per_day: float
    run_days: float
    sweep_days: float
    """All runs, one after another on the same GPUs."""
    gpu_hours: float


def runs_of(study: Study) -> int:
    """PPO runs: one for each seed of every alpha and of each baseline that has a role."""
    baselines = sum(role is not None for role in (study.paradigm_1, study.paradigm_3))
    return (len(study.alphas) + baselines) * len(study.seeds)


def training_state_bytes(parameters: int, settings: PpoSettings, stage: Stage) -> int:
    """Bytes of what DeepSpeed 0.19.8 writes for one engine.

    Stage 0 to 2 the parameters, e P; from stage 1 on a float32 master of them, 4 P (stage 0: in bfloat16 only); always
    Adam's moments, 8 P (`save_checkpoint` in deepspeed/runtime/engine.py).
    """
    element = ELEMENT_BYTES[settings.precision]
    master = 4 if stage or element == 2 else 0
    return parameters * ((element if stage < 3 else 0) + master + 8)


def disk_of(study: Study, models: Models, settings: PpoSettings, stage: Stage) -> Disk:
    """What the study writes.

    A run keeps KEPT_STATES + 1 training states at most, and its models after `evaluate_at_step`, after `until_step` and
    after the best step: each in its own directory and in the store.
    """
    element = ELEMENT_BYTES[settings.precision]
    actor, critic = models.actor.parameters(), models.critic.parameters("score")
    state = sum(training_state_bytes(parameters, settings, stage) for parameters in (actor, critic))
    kept = element * (actor + critic)
    steps = len({study.evaluate_at_step, study.until_step}) + 1
    run = (KEPT_STATES + 1) * state + 2 * steps * kept
    merged = element * actor * (1 + (len(study.alphas) if study.actors == "checkpoint" else 0))
    runs = runs_of(study)
    return Disk(state, kept, run, runs, merged, runs * run + merged)


def duration_of(
    study: Study, settings: PpoSettings, *, rollout: float, training: float, response_tokens: int, gpus: int
) -> Duration:
    """How long a study trains.

        step = B R / rollout + B (P + R) epochs / training        B responses of R tokens to prompts of P

    Args:
        rollout: tokens of responses that all GPUs sample in a second.
        training: tokens of prompts and responses that all GPUs take in a second through scoring, estimation and both
            updates.
        response_tokens: R, the mean length of a response.
    """
    batch, prompt = settings.batch_size, settings.max_prompt_tokens
    step = batch * response_tokens / rollout
    step += batch * (prompt + response_tokens) * settings.epochs / training
    run = step * study.until_step / DAY
    sweep = run * runs_of(study)
    return Duration(step, DAY / step, run, sweep, sweep * 24 * gpus)


def as_json(value: Disk | Duration) -> dict[str, float]:
    """The fields by name."""
    return asdict(value)
