"""Entropy relative to the run's own start."""

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.entropy import detect
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings
from tests.dynamics.length_runs import Floats, wander


def judged(entropy: list[float] | Floats) -> Verdict:
    steps = pd.DataFrame({"step": range(len(entropy)), "length_mean": 10.0, "entropy": entropy})
    return detect(RunTables.of(steps), DynamicsSettings())


def noisy(rng: np.random.Generator, course: Floats, noise: float = 0.1, drift: float = 0.1) -> Floats:
    result: Floats = course * np.exp(noise * rng.normal(size=len(course)) + wander(rng, len(course), drift))
    return result


def test_a_policy_that_becomes_certain_has_collapsed() -> None:
    rng = np.random.default_rng(0)
    course = 0.4 * np.exp(-np.arange(40) / 6).clip(0.02)
    found = judged(noisy(rng, course))
    assert found.verdict == "collapsed"
    assert "nats a token" in found.reason
    assert not found.evidence["low_at_start"]


def test_a_policy_that_was_certain_from_the_start_has_not_but_that_is_said() -> None:
    rng = np.random.default_rng(1)
    found = judged(noisy(rng, np.full(40, 0.005)))
    assert found.verdict == "healthy"
    assert found.evidence["low_at_start"]
    assert "It began low" in found.reason


def test_too_little_data_is_undetermined() -> None:
    assert judged([0.4, 0.3, 0.01]).verdict == "undetermined"
    assert judged([0.0] * 20).verdict == "undetermined"
    assert judged([float("nan")] * 20).verdict == "undetermined"
    assert judged([0.4, 0.05, 0.3, 0.04] * 5).verdict == "undetermined"


def false_alarms(runs: int, steps: int) -> float:
    """Entropy at 60% of its start from step 1 on: a policy in training, with 10% noise and 10% AR(1) drift."""
    rng, course = np.random.default_rng(2), np.r_[0.4, np.full(steps - 1, 0.24)]
    return sum(judged(noisy(rng, course)).verdict == "collapsed" for _ in range(runs)) / runs


def test_noise_is_seldom_called_a_collapse() -> None:
    assert false_alarms(60, 20) <= 0.05


@pytest.mark.soak
@pytest.mark.parametrize("steps", [20, 200])
def test_soak_false_alarms_of_entropy_are_at_most_five_percent(steps: int) -> None:
    assert false_alarms(1000, steps) <= 0.05
