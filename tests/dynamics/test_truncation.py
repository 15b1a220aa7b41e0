"""Truncation at the length limit."""

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.truncation import detect
from bai_pipeline.dynamics_settings import DynamicsSettings

SETTINGS = DynamicsSettings()


def run(shares: list[float] | np.ndarray[tuple[int], np.dtype[np.float64]], prompts: int | None = None) -> RunTables:
    steps = pd.DataFrame({"step": range(len(shares)), "length_mean": 10.0, "truncated_share": shares})
    return RunTables.of(steps if prompts is None else steps.assign(length_stderr=0.1, length_dof=prompts - 1))


@pytest.mark.parametrize("prompts", [64, None])
def test_a_run_that_fills_its_limit_is_truncating_from_where_it_did(prompts: int | None) -> None:
    found = detect(run([0.0] * 8 + [0.9] * 12, prompts), SETTINGS)
    assert found.verdict == "truncating"
    assert found.evidence["onset_step"] == 8
    assert "90%" in found.reason


@pytest.mark.parametrize("prompts", [64, None])
def test_a_run_below_the_level_is_within_it(prompts: int | None) -> None:
    found = detect(run([0.02, 0.03, 0.0, 0.1, 0.05, 0.12, 0.08, 0.1], prompts), SETTINGS)
    assert found.verdict == "within_limit"


def test_a_share_at_the_level_and_short_or_empty_runs_are_undetermined() -> None:
    assert detect(run([0.5] * 20, 64), SETTINGS).verdict == "undetermined"
    assert detect(run([0.0] * 5, 64), SETTINGS).verdict == "undetermined"
    assert detect(run([0.0]), SETTINGS).verdict == "undetermined"
    assert detect(RunTables.of(pd.DataFrame({"step": [0], "length_mean": [1.0]})), SETTINGS).verdict == "undetermined"


def false_alarms(runs: int, steps: int, prompts: int | None) -> float:
    """At the level itself, binomial shares of 64 responses: the hardest run that is still within it."""
    rng = np.random.default_rng(3)
    found = [detect(run(rng.binomial(64, 0.5, steps) / 64, prompts), SETTINGS).verdict for _ in range(runs)]
    return found.count("truncating") / runs


@pytest.mark.parametrize("prompts", [64, None])
def test_noise_at_the_level_is_seldom_called_truncation(prompts: int | None) -> None:
    assert false_alarms(60, 20, prompts) <= 0.05


@pytest.mark.soak
@pytest.mark.parametrize("prompts", [64, None])
@pytest.mark.parametrize("steps", [20, 200])
def test_soak_false_alarms_of_truncation_are_at_most_five_percent(steps: int, prompts: int | None) -> None:
    assert false_alarms(1000, steps, prompts) <= 0.05
