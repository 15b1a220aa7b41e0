"""Detectors that watch a run while it trains."""

import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.diagnosis import DETECTORS, diagnose
from bai_pipeline.dynamics.monitor import NEED_ALL_RESPONSES, Monitor, Row
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.errors import DataError
from tests.dynamics.length_runs import falling

SETTINGS = DynamicsSettings()
ONLINE = tuple(name for name in DETECTORS if name not in NEED_ALL_RESPONSES)


def whole_run(steps: int = 12, n: int = 32) -> RunTables:
    """A run as PPO records it; its critic is wrong about long prefixes, and one value of a step is not known."""
    rng = np.random.default_rng(5)
    lengths = (falling(steps, 0.6, 3)[:, None] * np.exp(0.3 * rng.normal(size=(steps, n)))).round()
    responses = pd.DataFrame(
        {
            "seed": 0,
            "step": np.repeat(np.arange(steps), n),
            "prompt_id": [f"p{i % (n // 2)}" for i in range(steps * n)],
            "length": lengths.ravel().astype("int64"),
            "score": rng.normal(size=steps * n),
        }
    )
    prefixes = pd.DataFrame(
        [
            {"seed": 0, "step": t, "prefix": 20 * i, "tokens": 200, "value_error": -0.5 * (i > 1)}
            for t in range(steps)
            for i in range(4 if t < 6 else 6)
        ]
    )
    rows = pd.DataFrame(
        {
            "seed": 0,
            "step": np.arange(steps),
            "length_mean": lengths.mean(1),
            "truncated_share": rng.binomial(n, 0.05, steps) / n,
            "score_mean": 0.0,
            "score_std": 1.0,
            "kl_train_sample": 0.001 * np.exp(rng.normal(size=steps) / 5),
            "stop_gap": [None, *([0.4] * (steps - 1))],
            "entropy": 0.3 * np.exp(rng.normal(size=steps) / 5),
            "expert_load_max": 1.5,
            "expert_load_entropy": 0.97 + 0.001 * rng.normal(size=steps),
        }
    )
    return RunTables.of(rows, responses, prefixes)


def rows_of(table: pd.DataFrame | None, step: int) -> list[dict[str, Any]]:
    assert table is not None
    return [{str(key): value for key, value in row.items()} for row in table[table["step"] == step].to_dict("records")]


def observe(monitor: Monitor, run: RunTables, steps: range) -> None:
    for step in steps:
        monitor.observe(rows_of(run.steps, step)[0], rows_of(run.responses, step), rows_of(run.prefixes, step))


def same(one: Verdict, other: Verdict) -> bool:
    """Equal but for the last digits of sums."""
    numbers = [[v for v in verdict.evidence.values() if isinstance(v, float)] for verdict in (one, other)]
    return (one.verdict, one.reason) == (other.verdict, other.reason) and numbers[0] == pytest.approx(
        numbers[1], nan_ok=True
    )


def test_online_and_offline_say_the_same_at_every_step() -> None:
    run, monitor = whole_run(), Monitor(SETTINGS, ONLINE)
    for step in range(12):
        observe(monitor, run, range(step, step + 1))
        offline = diagnose(run.until(step), SETTINGS).verdicts
        for name, verdict in monitor.verdicts().items():
            assert same(verdict, offline[name]), (step, name, verdict, offline[name])
    assert monitor.verdicts()["length_collapse"].verdict == "collapsed"
    assert monitor.verdicts()["critic_offset"].verdict == "underestimates_long_prefixes"


@pytest.mark.parametrize("at", [1, 2, 7])
def test_a_monitor_that_resumes_goes_on_as_if_it_had_never_stopped(at: int) -> None:
    run = whole_run()
    through, resumed = Monitor(SETTINGS, ONLINE), Monitor(SETTINGS, ONLINE)
    observe(through, run, range(12))
    observe(resumed, run, range(3))
    resumed.resume(run.until(at - 1))
    observe(resumed, run, range(at, 12))
    for name, verdict in through.verdicts().items():
        assert same(verdict, resumed.verdicts()[name]), name


def test_before_the_first_step_nothing_is_known() -> None:
    monitor = Monitor(SETTINGS)
    assert {name: verdict.verdict for name, verdict in monitor.verdicts().items()} == {
        "length_collapse": "undetermined",
        "critic_offset": "undetermined",
    }


def test_a_detector_that_needs_all_responses_is_refused_and_so_is_an_unknown_one() -> None:
    for name in (*NEED_ALL_RESPONSES, "length"):
        with pytest.raises(DataError, match=name):
            Monitor(SETTINGS, (name,))


@pytest.mark.soak
def test_soak_a_look_late_in_a_long_run_costs_a_fraction_of_a_second() -> None:
    """The paper's run: 1600 steps of 4096 responses."""
    rng = np.random.default_rng(6)
    steps = pd.DataFrame({"step": np.arange(1590), "length_mean": 1000 * np.exp(0.01 * rng.normal(size=1590))})
    steps["length_stderr"], steps["length_dof"] = 10.0, 4095
    monitor = Monitor(SETTINGS)
    monitor.resume(RunTables.of(steps))
    seconds = []
    for step in range(1590, 1600):
        lengths = rng.normal(1000, 600, size=4096).clip(1).round()
        responses: list[Row] = [
            {"step": step, "prompt_id": f"p{i}", "length": int(v), "score": 0.0} for i, v in enumerate(lengths)
        ]
        start = time.perf_counter()
        monitor.observe({"step": step, "length_mean": float(lengths.mean())}, responses, [])
        monitor.verdicts()
        seconds.append(time.perf_counter() - start)
    assert np.median(seconds) < 0.5
