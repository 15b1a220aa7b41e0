"""KL between training and sampling policy: its level, volatility and spikes, on constructed series.

Noise model: log KL is normal around a course that warms up over the first tenth of a run (factor 30), with an sd of
0.3, 0.5 (a typical factor of 1.6) and, at the limit of what is called volatile, log 2; independent or AR(1) with
φ = 0.8; runs of 20, 200 and 2000 steps.
"""

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bai_pipeline.dynamics.kl import detect, log_deviations, running_median
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.dynamics_settings import DynamicsSettings

SETTINGS = DynamicsSettings()


def made_kl(
    rng: np.random.Generator, steps: int, *, sd: float = 0.3, phi: float = 0.0, warm_up: bool = True
) -> NDArray[np.float64]:
    """A series of the module's noise model around a level of 1e-3."""
    shock, state = rng.normal(size=steps), np.zeros(steps)
    state[0] = shock[0]
    for t in range(1, steps):
        state[t] = phi * state[t - 1] + np.sqrt(1 - phi**2) * shock[t]
    warm = np.minimum(1.0, (np.arange(steps) + 1) / max(1, steps // 10)) if warm_up else np.ones(steps)
    kl: NDArray[np.float64] = 1e-3 * np.maximum(warm**2, 1 / 30) * np.exp(sd * state)
    return kl


def as_run(kl: NDArray[np.float64], **columns: NDArray[np.float64]) -> RunTables:
    steps = pd.DataFrame({"step": np.arange(len(kl)), "length_mean": 50.0, "kl_train_sample": kl})
    return RunTables.of(steps.assign(**columns))


def test_the_running_median_follows_a_trend_without_bias_and_ignores_a_spike() -> None:
    line = np.arange(30.0)
    assert running_median(line, 3)[2:-3].tolist() == line[2:-3].tolist()
    assert running_median(np.where(line == 15, 1e6, line), 3)[15] == 16.0


def test_a_warm_up_is_no_spike_and_a_steady_run_is_steady() -> None:
    verdict = detect(as_run(made_kl(np.random.default_rng(0), 200)), SETTINGS)
    assert verdict.verdict == "steady"
    assert verdict.evidence["spikes"] == 0
    assert verdict.evidence["level"] == pytest.approx(1e-3, rel=0.1)
    assert verdict.evidence["volatility"] == pytest.approx(np.exp(0.3), rel=0.1)
    assert verdict.confidence is not None
    assert verdict.confidence > 0.99


@pytest.mark.parametrize(("steps", "at"), [(20, 12), (200, 90), (200, 199), (3000, 1500)])
def test_a_spike_is_found_also_at_the_last_step(steps: int, at: int) -> None:
    kl = made_kl(np.random.default_rng(1), steps)
    kl[at] *= 20
    verdict = detect(as_run(kl), SETTINGS)
    assert verdict.verdict == "spiking"
    assert verdict.evidence["spikes"] == 1
    assert verdict.evidence["largest_step"] == at
    assert f"at step {at}" in verdict.reason


def test_steps_that_differ_by_factors_are_volatile_and_not_spikes() -> None:
    verdict = detect(as_run(made_kl(np.random.default_rng(2), 200, sd=1.5)), SETTINGS)
    assert verdict.verdict == "volatile"
    assert verdict.evidence["spikes"] == 0


def test_an_ordinary_step_among_steps_near_zero_is_no_spike() -> None:
    kl = made_kl(np.random.default_rng(3), 60, warm_up=False)
    kl[40:] *= 1e-4
    kl[50] = 1e-3
    assert detect(as_run(kl), SETTINGS).verdict == "steady"


def test_a_lasting_change_of_level_is_no_spike_and_shows_in_the_evidence() -> None:
    kl = made_kl(np.random.default_rng(4), 200)
    kl[100:] *= 10
    verdict = detect(as_run(kl), SETTINGS)
    assert verdict.verdict == "steady"
    start, end = verdict.evidence["level_start"], verdict.evidence["level_end"]
    assert isinstance(start, float)
    assert isinstance(end, float)
    assert end > 5 * start


def test_a_volatility_above_the_threshold_by_less_than_its_error_is_undetermined() -> None:
    verdict = detect(as_run(np.exp(0.75 * np.array([1, -1, 1, -1, 1, -1, 1, 0, -1, 1, -1, 1, -1.0]))), SETTINGS)
    assert verdict.verdict == UNDETERMINED
    assert "too few to tell" in verdict.reason


def test_spikes_before_any_update_are_put_down_to_the_engines() -> None:
    kl = made_kl(np.random.default_rng(5), 100)
    mismatch = 0.01 * kl
    kl[50] = mismatch[50] = 0.05
    verdict = detect(as_run(kl, kl_mismatch=mismatch), SETTINGS)
    assert verdict.verdict == "spiking"
    assert verdict.evidence["spikes_of_mismatch"] == 1
    assert "before any update" in verdict.reason
    verdict = detect(as_run(made_kl(np.random.default_rng(6), 100), kl_mismatch=np.full(100, 1e-3)), SETTINGS)
    assert "disagree numerically" in verdict.reason


def test_no_column_few_steps_and_a_kl_of_zero_are_undetermined() -> None:
    run = as_run(made_kl(np.random.default_rng(7), 9))
    assert "got 9" in detect(run, SETTINGS).reason
    assert detect(RunTables.of(run.steps.drop(columns="kl_train_sample")), SETTINGS).verdict == UNDETERMINED
    assert "KL of 0" in detect(as_run(np.zeros(50)), SETTINGS).reason


def test_steps_without_a_value_are_left_out() -> None:
    kl = made_kl(np.random.default_rng(8), 100)
    kl[::3] = np.nan
    assert detect(as_run(kl), SETTINGS).evidence["steps"] == 66


def test_a_constant_kl_is_steady() -> None:
    assert detect(as_run(np.full(50, 1e-3)), SETTINGS).verdict == "steady"
    assert log_deviations(np.full(50, 1e-3)).tolist() == [0.0] * 50


def false_alarms(runs: int, steps: int, *, sd: float, phi: float) -> float:
    """Share of noise runs that are called anything but steady or undetermined."""
    rng = np.random.default_rng(steps)
    alarms = 0
    for _ in range(runs):
        verdict = detect(as_run(made_kl(rng, steps, sd=sd, phi=phi)), SETTINGS)
        alarms += verdict.verdict not in ("steady", UNDETERMINED)
    return alarms / runs


def test_noise_seldom_spikes() -> None:
    assert false_alarms(200, 20, sd=0.5, phi=0.0) <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("phi", [0.0, 0.8])
@pytest.mark.parametrize("sd", [0.3, 0.5, np.log(2)])
@pytest.mark.parametrize("steps", [20, 200])
def test_at_most_one_in_twenty_noise_runs_spikes_or_is_volatile(steps: int, sd: float, phi: float) -> None:
    assert false_alarms(1000, steps, sd=sd, phi=phi) <= 0.05


@pytest.mark.soak
def test_most_spikes_are_found() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        kl = made_kl(rng, 200)
        kl[rng.integers(25, 200)] *= 10
        found += detect(as_run(kl), SETTINGS).verdict == "spiking"
    assert found >= 180
