"""The load of a router's experts."""

from math import log

import numpy as np
import pandas as pd
import pytest

from bai_pipeline.dynamics.router import detect
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings
from tests.dynamics.length_runs import Floats


def judged(entropy: list[float] | Floats, maximum: float | None = None) -> Verdict:
    steps = pd.DataFrame({"step": range(len(entropy)), "length_mean": 10.0, "expert_load_entropy": entropy})
    return detect(RunTables.of(steps if maximum is None else steps.assign(expert_load_max=maximum)), DynamicsSettings())


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 8), (128, 8), (256, 8), (128, 1)])
def test_a_router_that_sends_all_tokens_to_the_same_experts_has_collapsed(experts: int, top_k: int) -> None:
    collapsed = log(top_k) / log(experts)
    course = np.r_[np.full(6, 0.98), np.linspace(0.98, collapsed, 10), np.full(15, collapsed)]
    found = judged(course, experts / top_k)
    assert found.verdict == "collapsed"
    onset = found.evidence["onset_step"]
    assert onset is not None
    assert 2 * (1 - course[int(onset) - 1]) < 0.9 <= 2 * (1 - course[int(onset)])


def test_the_load_of_the_micro_runs_is_healthy_and_no_layer_can_have_collapsed() -> None:
    found = judged([0.977, 0.972, 0.97, 0.973, 0.975, 0.979, 0.981, 0.975], 1.76)
    assert found.verdict == "healthy"
    assert "cannot be excluded" not in found.reason


def test_a_single_layer_that_may_have_collapsed_is_said() -> None:
    assert "cannot be excluded" in judged([0.95] * 10, 8.0).reason


def test_dense_policies_and_short_runs_are_undetermined() -> None:
    assert judged([float("nan")] * 10).verdict == "undetermined"
    assert judged([0.98] * 4).verdict == "undetermined"
    assert judged([0.98]).verdict == "undetermined"


def false_alarms(runs: int, steps: int) -> float:
    """Loads that vary by 0.02 around a level just below that of a collapse (h = 0.56; the level is 0.55)."""
    rng = np.random.default_rng(4)
    return sum(judged(0.56 + 0.02 * rng.normal(size=steps)).verdict == "collapsed" for _ in range(runs)) / runs


def test_noise_is_seldom_called_a_collapse() -> None:
    assert false_alarms(60, 20) <= 0.05


@pytest.mark.soak
@pytest.mark.parametrize("steps", [20, 200])
def test_soak_false_alarms_of_the_router_are_at_most_five_percent(steps: int) -> None:
    assert false_alarms(1000, steps) <= 0.05
