"""A run that watches its own dynamics: what it says, and that it ends and goes on as it is told."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.ppo import Schedule, run_ppo
from bai_pipeline.ppo.watch import WatchRule
from bai_pipeline.progress import Severity
from bai_pipeline.settings import PpoSettings

STEPS = 16


class Reports:
    """What a run reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.checks: list[tuple[str, bool, Severity, dict[str, float | int | str]]] = []

    def progress(self, done: int, total: int, **numbers: float) -> None:
        return None

    def log(self, message: str) -> None:
        self.lines.append(message)

    def check(self, name: str, passed: bool, *, severity: Severity = "error", **metadata: float | int | str) -> None:
        self.checks.append((name, passed, severity, metadata))


def shortness(
    prompts: Sequence[Any],
    responses: Sequence[str],
    answers: Sequence[str | None],
    truncated: Sequence[bool] | None = None,
) -> list[float]:
    """A reward that makes any policy collapse: the shorter, the better."""
    return [-float(len(response.split())) for response in responses]


Train = Callable[..., tuple[Path, Reports]]


@pytest.fixture
def train(world: Path, settings: PpoSettings, tmp_path: Path) -> Train:
    """A run under the reward `shortness`; `name` is its work directory, `out` is new with every call."""
    eager = settings.model_copy(
        update={"batch_size": 32, "mini_batch_size": 8, "actor_learning_rate": 2e-2, "kl_coef": 0.0}
    )

    def call(name: str, out: str, on_collapse: Any, steps: int = STEPS) -> tuple[Path, Reports]:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / out).mkdir()
        reports = Reports()
        run_ppo(
            actor=world / "actor",
            prompts=world / "prompts.parquet",
            out=tmp_path / out,
            work=tmp_path / name,
            settings=eager,
            seed=0,
            schedule=Schedule(until_step=steps, checkpoint_every=7, evaluate_at_step=steps),
            report=reports,
            critic_init=world / "reward",
            reference=None,
            scorer=shortness,
            rule=WatchRule(on_collapse, DynamicsSettings(bucket_width=4)),
        )
        return tmp_path / out, reports

    return call


def run_of(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "run.json").read_text())
    return record


def lengths(out: Path) -> list[float]:
    return pd.read_parquet(out / "steps")["length_mean"].tolist()


def test_a_collapsing_run_stops_keeps_its_checkpoint_and_goes_on_when_told_to(train: Train) -> None:
    whole, observed = train("whole", "whole-out", "observe")
    stopped, reports = train("run", "stopped-out", "stop")

    record = run_of(stopped)
    step = record["until_step"]
    assert 1 < step < STEPS
    assert record["stopped"]["step"] == step
    assert "Mean length fell" in record["stopped"]["reason"]
    assert str(step) in record["policies"]
    assert (stopped / record["policies"][str(step)] / "model.safetensors").is_file()
    assert lengths(stopped) == lengths(whole)[:step]
    ((name, passed, severity, metadata),) = reports.checks
    assert (name, passed, severity) == ("no_length_collapse", False, "error")
    assert metadata["reason"] == record["stopped"]["reason"]

    again, _ = train("run", "again-out", "stop")
    assert run_of(again) == record  # the verdict is that of the recorded steps: nothing more is trained

    resumed, _ = train("run", "resumed-out", "observe")
    assert run_of(resumed)["stopped"] is None
    assert run_of(resumed)["until_step"] == STEPS
    assert lengths(resumed) == lengths(whole)
    ((_, passed, severity, _),) = observed.checks
    assert (passed, severity) == (False, "warn")


def test_a_warning_is_logged_when_it_happens_and_ends_nothing(train: Train) -> None:
    out, reports = train("run", "out", "warn")
    assert run_of(out)["until_step"] == STEPS
    assert [line for line in reports.lines if line.startswith("length_collapse: collapsed. Mean length fell")]
    _, quiet = train("quiet", "quiet-out", "observe")
    assert not [line for line in quiet.lines if line.startswith("length_collapse")]
