"""The Reward Hockey Stick on constructed curves with known answers, and how often noise alone looks like one.

Noise model: 64 responses a step, log-normal lengths (median 45 tokens, log sd 0.5, at most 150), scores with sd 0.9
that depend on length (+0.3 beyond 60 tokens), runs of 20 and 200 steps; with drift, the mean score follows an AR(1)
with φ = 0.9. The runs of preset `micro` show no drift of the score that their sampling noise does not explain, so 0.05
standard deviations is generous.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bai_pipeline.dynamics.hockey_stick import detect
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.dynamics_settings import DynamicsSettings

SETTINGS = DynamicsSettings(bucket_width=20)
SD = 0.9
Course = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Share of the run → change of the mean score in standard deviations."""


def made_run(
    rng: np.random.Generator, steps: int, course: Course | None = None, *, drift: float = 0.0, batch: int = 64
) -> RunTables:
    """A run of the module's noise model with a `course`, and AR(1) drift of the given stationary sd."""
    shock, state = rng.normal(size=steps), np.zeros(steps)
    state[0] = shock[0]
    for t in range(1, steps):
        state[t] = 0.9 * state[t - 1] + np.sqrt(1 - 0.9**2) * shock[t]
    shift = drift * state + (0.0 if course is None else course(np.arange(steps) / steps))
    length = np.clip(rng.lognormal(np.log(45), 0.5, (steps, batch)), 1, 150).astype(int)
    score = 0.3 * (length > 60) + SD * (shift[:, None] + rng.normal(size=(steps, batch)))
    return RunTables.of(
        pd.DataFrame(
            {
                "step": np.arange(steps),
                "length_mean": length.mean(1),
                "score_mean": score.mean(1),
                "score_std": score.std(1),
            }
        ),
        pd.DataFrame({"step": np.repeat(np.arange(steps), batch), "length": length.ravel(), "score": score.ravel()}),
    )


def dip(depth: float, *, first: float = 0.15, last: float = 0.5) -> Course:
    """Down by `depth` between two shares of the run, and back to the start."""
    return lambda share: np.where((share >= first) & (share < last), -depth, 0.0)


def fall(depth: float, *, first: float = 0.3) -> Course:
    return lambda share: np.where(share >= first, -depth, 0.0)


def as_table(rows: list[tuple[int, int, float]]) -> RunTables:
    responses = pd.DataFrame(rows, columns=["step", "length", "score"])
    mean = responses.groupby("step")["length"].mean()
    return RunTables.of(pd.DataFrame({"step": mean.index, "length_mean": mean.to_numpy()}), responses)


@pytest.mark.parametrize("steps", [20, 200, 1000])
def test_a_deep_dip_is_found_with_its_depth_and_its_recovery(steps: int) -> None:
    verdict = detect(made_run(np.random.default_rng(0), steps, dip(1.0)), SETTINGS)
    assert verdict.verdict == "hockey_stick"
    assert verdict.evidence["decline"] == pytest.approx(1.0, abs=0.3)
    assert verdict.evidence["final_gain"] == pytest.approx(0.0, abs=0.3)
    trough = verdict.evidence["trough_step"]
    assert isinstance(trough, float)
    assert 0.1 * steps <= trough <= 0.55 * steps
    assert verdict.confidence is not None
    assert verdict.confidence > 0.95


def test_a_fall_without_a_recovery_is_a_decline() -> None:
    verdict = detect(made_run(np.random.default_rng(1), 200, fall(0.6)), SETTINGS)
    assert verdict.verdict == "decline"
    assert verdict.reason.startswith("By step ")
    assert "no recovery yet" in verdict.reason


def test_a_recovery_of_less_than_half_is_none() -> None:
    course: Course = lambda share: np.select([share < 0.2, share < 0.5], [0.0, -1.0], -0.7)  # noqa: E731
    verdict = detect(made_run(np.random.default_rng(2), 400, course), SETTINGS)
    assert verdict.verdict == "decline"


def test_a_rising_score_is_steady() -> None:
    verdict = detect(made_run(np.random.default_rng(3), 100, lambda share: 2 * share), SETTINGS)
    assert verdict.verdict == "steady"
    assert verdict.evidence["mix_share"] is None


def test_a_fall_from_a_later_height_that_stays_above_the_start_is_steady() -> None:
    course: Course = lambda share: np.where(share < 0.5, 2 * share, 0.7)  # noqa: E731
    assert detect(made_run(np.random.default_rng(4), 200, course), SETTINGS).verdict == "steady"


def test_a_dip_of_one_bucket_is_found_and_named() -> None:
    rng = np.random.default_rng(5)
    rows = []
    for step in range(100):
        for length in (30, 150):
            low = -1.0 if length == 150 and 20 <= step < 50 else 0.0
            high = 1.0 if length == 30 and 20 <= step < 50 else 0.0
            rows += [(step, length, low + high + rng.normal()) for _ in range(32)]
    verdict = detect(as_table(rows), DynamicsSettings())
    assert verdict.verdict == "hockey_stick"
    assert "responses from 100 tokens" in verdict.reason
    assert verdict.evidence["buckets_declined"] == 1
    assert verdict.evidence["buckets_recovered"] == 1


def moving(
    rng: np.random.Generator, *, long_start: float, long_end: float, long_score: float, change: float
) -> RunTables:
    """Responses of 30 and 150 tokens; the share of long ones moves, and each score changes by `change`, linearly."""
    rows = []
    for step in range(100):
        at = step / 99
        long = rng.random(64) < long_start + at * (long_end - long_start)
        score = long_score * long + change * at + 0.3 * rng.normal(size=64)
        rows += [(step, 150 if is_long else 30, s) for is_long, s in zip(long, score, strict=True)]
    return as_table(rows)


def test_a_mean_that_falls_only_because_responses_move_to_buckets_of_lower_scores_is_said_to_do_so() -> None:
    run = moving(np.random.default_rng(6), long_start=0.9, long_end=0.2, long_score=2.0, change=0.2)
    verdict = detect(run, DynamicsSettings())
    assert verdict.verdict == "steady"
    assert "Simpson's paradox" in verdict.reason
    share = verdict.evidence["mix_share"]
    assert isinstance(share, float)
    assert share > 1.0
    # The mean score alone cannot tell.
    means = run.responses.groupby("step")["score"].agg(["mean", "std"])  # type: ignore[union-attr]
    alone = RunTables.of(run.steps.assign(score_mean=means["mean"].to_numpy(), score_std=means["std"].to_numpy()))
    verdict = detect(alone, DynamicsSettings())
    assert verdict.verdict == "decline"
    assert verdict.reason.startswith("Only the mean score is known")


def test_a_decline_inside_buckets_that_the_mean_hides_is_found() -> None:
    run = moving(np.random.default_rng(7), long_start=0.2, long_end=0.9, long_score=2.0, change=-0.8)
    verdict = detect(run, DynamicsSettings())
    assert verdict.verdict == "decline"
    assert "The mean score hides it" in verdict.reason


def test_a_start_that_is_high_by_chance_is_not_chosen() -> None:
    """One step far above the rest, after the start: the run does not decline from it."""
    rng = np.random.default_rng(8)
    run = made_run(rng, 200, lambda share: np.where((share > 0.02) & (share < 0.03), 2.0, 0.0))
    assert detect(run, SETTINGS).verdict == "steady"


def test_a_plain_log_of_mean_scores_is_judged() -> None:
    run = made_run(np.random.default_rng(9), 200, dip(0.8))
    plain = RunTables.of(run.steps.drop(columns="score_std"))
    verdict = detect(plain, SETTINGS)
    assert verdict.verdict == "hockey_stick"
    assert "8 times the noise" in verdict.reason
    assert verdict.evidence["by_bucket"] is False


def test_too_few_responses_are_undetermined() -> None:
    verdict = detect(made_run(np.random.default_rng(10), 20, batch=6), SETTINGS)
    assert verdict.verdict == UNDETERMINED
    assert "too few responses" in verdict.reason
    assert verdict.confidence is None


def test_too_few_steps_no_scores_and_constant_scores_are_undetermined() -> None:
    run = made_run(np.random.default_rng(11), 20)
    assert "got 2" in detect(run.until(1), SETTINGS).reason
    assert detect(RunTables.of(run.steps[["step", "length_mean"]]), SETTINGS).verdict == UNDETERMINED
    constant = as_table([(step, 30, 1.0) for step in range(20) for _ in range(64)])
    assert "do not vary" in detect(constant, SETTINGS).reason


def test_responses_that_leave_all_buckets_of_the_start_are_undetermined() -> None:
    rng = np.random.default_rng(12)
    rows = [(step, 30 if step < 2 else 150, rng.normal()) for step in range(20) for _ in range(64)]
    verdict = detect(as_table(rows), DynamicsSettings())
    assert verdict.verdict == UNDETERMINED


def test_without_noise_any_decline_beyond_the_threshold_is_found() -> None:
    scores = [0.0, 0.0, -1.0, -1.0, -1.0, *[0.5] * 15]
    rows = [(step, 30, score + (-1) ** i * (step == 0)) for step, score in enumerate(scores) for i in range(64)]
    verdict = detect(as_table(rows), DynamicsSettings())
    assert verdict.verdict == "hockey_stick"


def false_alarms(runs: int, steps: int, *, drift: float, columns: str) -> float:
    """Share of noise runs that are called anything but steady or undetermined."""
    rng = np.random.default_rng(steps)
    alarms = 0
    for _ in range(runs):
        run = made_run(rng, steps, drift=drift)
        if columns != "responses":
            run = RunTables.of(run.steps if columns == "steps" else run.steps.drop(columns="score_std"))
        alarms += detect(run, SETTINGS).verdict not in ("steady", UNDETERMINED)
    return alarms / runs


@pytest.mark.parametrize("columns", ["responses", "steps", "mean"])
def test_noise_is_seldom_a_decline(columns: str) -> None:
    assert false_alarms(200, 20, drift=0.0, columns=columns) <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("columns", ["responses", "steps", "mean"])
@pytest.mark.parametrize("drift", [0.0, 0.05])
@pytest.mark.parametrize("steps", [20, 200])
def test_at_most_one_in_twenty_noise_runs_is_a_decline(steps: int, drift: float, columns: str) -> None:
    assert false_alarms(1000, steps, drift=drift, columns=columns) <= 0.05


@pytest.mark.soak
def test_most_deep_dips_are_found() -> None:
    rng = np.random.default_rng(0)
    for steps, depth in ((20, 1.0), (200, 0.5)):
        found = [detect(made_run(rng, steps, dip(depth)), SETTINGS).verdict for _ in range(200)]
        assert found.count("hockey_stick") >= 0.8 * len(found)
