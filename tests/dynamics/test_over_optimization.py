"""Score and true accuracy part ways: constructed runs with known answers, and how often noise alone looks like it.

Noise model: 64 responses a step; a response is right with probability p (0.7, or AR(1) around it with φ = 0.9 and an sd
of 0.025, half of the default threshold) and its score is normal around 0.8 for a right one, around 0 for a wrong one,
sd 0.5; runs of 20 and 200 steps. The runs of preset `micro` vary by about 0.03 beyond their sampling noise.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bai_pipeline.dynamics.over_optimization import detect, validity
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.dynamics_settings import DynamicsSettings

SETTINGS = DynamicsSettings()
Course = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Share of the run → accuracy."""


def level(value: float) -> Course:
    return lambda share: np.full_like(share, value)


def made_run(
    rng: np.random.Generator,
    steps: int,
    accuracy: Course,
    *,
    worth: float = 0.8,
    bonus: float = 0.0,
    drift: float = 0.0,
    batch: int = 64,
) -> RunTables:
    """A run of the module's noise model; `bonus` is what all scores gain over the run, right or wrong."""
    share, shock, state = np.arange(steps) / steps, rng.normal(size=steps), np.zeros(steps)
    state[0] = shock[0]
    for t in range(1, steps):
        state[t] = 0.9 * state[t - 1] + np.sqrt(1 - 0.9**2) * shock[t]
    right = rng.random((steps, batch)) < (accuracy(share) + drift * state)[:, None]
    score = worth * right + bonus * share[:, None] + 0.5 * rng.normal(size=(steps, batch))
    columns = {"length_mean": 50.0, "score_mean": score.mean(1), "accuracy": right.mean(1)}
    return RunTables.of(
        pd.DataFrame({"step": np.arange(steps), **columns}),
        pd.DataFrame({"step": np.repeat(np.arange(steps), batch), "score": score.ravel(), "correct": right.ravel()}),
    )


def falling(start: float, end: float) -> Course:
    return lambda share: start + (end - start) * np.minimum(1.0, 1.5 * share)


@pytest.mark.parametrize("steps", [20, 200])
@pytest.mark.parametrize("responses", [True, False])
def test_accuracy_that_falls_while_the_score_rises_is_over_optimization(steps: int, responses: bool) -> None:
    run = made_run(np.random.default_rng(0), steps, falling(0.9, 0.4), bonus=1.0)
    verdict = detect(run if responses else RunTables.of(run.steps), SETTINGS)
    assert verdict.verdict == "over_optimized"
    assert verdict.evidence["accuracy_change"] == pytest.approx(-0.5, abs=0.15)
    assert verdict.confidence is not None
    assert verdict.confidence > 0.95


def test_a_rise_and_a_fall_count_from_the_peak_as_gao_found_them() -> None:
    def peak(share: NDArray[np.float64]) -> NDArray[np.float64]:
        return 0.5 + 0.45 * np.sin(np.pi * np.minimum(share * 1.25, 1.0))

    verdict = detect(made_run(np.random.default_rng(1), 200, peak, bonus=2.0), SETTINGS)
    assert verdict.verdict == "over_optimized"
    assert verdict.evidence["accuracy_change"] == pytest.approx(0.0, abs=0.1)
    assert verdict.evidence["accuracy_loss"] == pytest.approx(0.45, abs=0.15)
    since = verdict.evidence["since_step"]
    assert isinstance(since, float)
    assert 40 <= since <= 130


def test_score_and_accuracy_that_rise_together_are_aligned() -> None:
    verdict = detect(made_run(np.random.default_rng(2), 100, falling(0.4, 0.9)), SETTINGS)
    assert verdict.verdict == "aligned"


def test_score_and_accuracy_that_fall_together_are_aligned_and_said_to_fall() -> None:
    verdict = detect(made_run(np.random.default_rng(3), 200, falling(0.9, 0.3), worth=2.0), SETTINGS)
    assert verdict.verdict == "aligned"
    assert "fell together" in verdict.reason


def test_a_loss_within_the_threshold_is_aligned() -> None:
    verdict = detect(made_run(np.random.default_rng(4), 300, falling(0.80, 0.77), bonus=1.0), SETTINGS)
    assert verdict.verdict == "aligned"


def test_a_loss_that_can_neither_be_shown_nor_excluded_is_undetermined() -> None:
    verdict = detect(made_run(np.random.default_rng(5), 20, falling(0.8, 0.65), bonus=1.0, batch=16), SETTINGS)
    assert verdict.verdict == UNDETERMINED
    assert "neither" in verdict.reason


def test_without_accuracy_or_with_one_step_nothing_is_determined() -> None:
    run = made_run(np.random.default_rng(6), 20, level(0.7))
    assert detect(RunTables.of(run.steps.drop(columns="accuracy")), SETTINGS).verdict == UNDETERMINED
    assert "got 1" in detect(run.until(0), SETTINGS).reason
    assert detect(RunTables.of(run.steps.head(2)), SETTINGS).verdict == UNDETERMINED


def test_responses_whose_correctness_is_unknown_are_left_out() -> None:
    run = made_run(np.random.default_rng(7), 40, falling(0.9, 0.4), bonus=1.0)
    assert run.responses is not None
    correct = run.responses["correct"].astype(object)
    correct[::2] = None
    run = RunTables.of(run.steps, run.responses.assign(correct=correct))
    assert detect(run, SETTINGS).verdict == "over_optimized"


def test_a_perfect_start_still_has_an_error() -> None:
    """All of few responses are right: a share of 1 is no certainty."""
    run = made_run(np.random.default_rng(8), 20, lambda share: np.where(share < 0.1, 1.0, 0.95), batch=8)
    assert detect(run, SETTINGS).verdict != "over_optimized"


def test_validity_is_the_correlation_of_score_and_correctness_within_steps() -> None:
    rng = np.random.default_rng(9)
    correct = rng.random(4000) < 0.5
    step = np.repeat([0, 1], 2000)
    table = pd.DataFrame({"step": step, "correct": correct, "score": 1.0 * correct + 100 * step})
    assert validity(table) == pytest.approx(1.0)
    noisy = table.assign(score=table["score"] + 0.5 * rng.normal(size=4000))
    assert validity(noisy) == pytest.approx(1 / np.sqrt(2), abs=0.03)
    assert np.isnan(validity(table.assign(correct=True)))


def false_alarms(runs: int, steps: int, *, drift: float, responses: bool) -> float:
    """Share of runs of steady accuracy that are called over-optimized."""
    rng = np.random.default_rng(steps)
    alarms = 0
    for _ in range(runs):
        run = made_run(rng, steps, level(0.7), drift=drift)
        alarms += detect(run if responses else RunTables.of(run.steps), SETTINGS).verdict == "over_optimized"
    return alarms / runs


@pytest.mark.parametrize("responses", [True, False])
def test_noise_is_seldom_over_optimization(responses: bool) -> None:
    assert false_alarms(200, 20, drift=0.0, responses=responses) <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("responses", [True, False])
@pytest.mark.parametrize("drift", [0.0, 0.025])
@pytest.mark.parametrize("steps", [20, 200])
def test_at_most_one_in_twenty_noise_runs_is_over_optimized(steps: int, drift: float, responses: bool) -> None:
    assert false_alarms(1000, steps, drift=drift, responses=responses) <= 0.05


@pytest.mark.soak
def test_most_losses_are_found() -> None:
    rng = np.random.default_rng(0)
    for steps, end in ((20, 0.5), (200, 0.65)):
        runs = (made_run(rng, steps, falling(0.8, end), bonus=1.0) for _ in range(200))
        assert sum(detect(run, SETTINGS).verdict == "over_optimized" for run in runs) >= 160
