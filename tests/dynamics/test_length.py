"""Sequence Length Collapse on curves whose answer is known, and on noise."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.dynamics.length import DETECTOR, detect, length_errors
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings
from tests.dynamics.length_runs import REALISTIC_DRIFT, exact, falling, sampled

SETTINGS = DynamicsSettings()

# Recorded micro runs (preset `micro`, 64 responses a step): lengths and their standard deviations.
PARADIGM_3 = (
    [
        64.5,
        67.8,
        61.4,
        58.7,
        56.9,
        53.0,
        51.6,
        53.1,
        46.3,
        40.7,
        38.5,
        37.2,
        38.5,
        37.6,
        37.8,
        39.5,
        40.6,
        42.0,
        41.1,
        43.9,
    ],
    [24.7, 24.0, 19.0, 16.8, 14.9, 11.4, 14.4, 11.2, 10.7, 8.2, 5.5, 3.9, 6.5, 5.2, 6.3, 6.6, 6.9, 8.3, 7.5, 8.5],
)
ALPHA_0 = (
    [
        16.6,
        22.0,
        22.1,
        22.0,
        24.2,
        23.2,
        23.5,
        24.0,
        22.9,
        23.8,
        22.8,
        23.6,
        25.3,
        24.0,
        22.4,
        23.4,
        24.3,
        23.5,
        24.2,
        23.5,
    ],
    [13.6, 18.6, 12.9, 9.4, 6.3, 7.0, 6.9, 6.2, 6.8, 6.4, 6.0, 6.0, 7.8, 7.8, 7.7, 7.4, 8.3, 7.3, 10.1, 10.9],
)

lengths = st.lists(st.floats(5, 200), min_size=2, max_size=30)
errors = st.floats(0.001, 0.2)


def verdict(run: RunTables, settings: DynamicsSettings = SETTINGS) -> Verdict:
    found = detect(run, settings)
    assert found.detector == DETECTOR
    assert (found.confidence is None) != found.determined
    return found


def number(found: Verdict, name: str) -> float:
    value = found.evidence[name]
    assert isinstance(value, float | int)
    return float(value)


def recorded(run: tuple[list[float], list[float]], *, known: bool) -> RunTables:
    steps = pd.DataFrame({"step": range(20), "length_mean": run[0]})
    if known:
        steps["length_stderr"], steps["length_dof"] = np.array(run[1]) / 8, 63
    return RunTables.of(steps)


@pytest.mark.parametrize("known", [True, False])
def test_the_recorded_collapse_is_found_and_its_beginning_named(known: bool) -> None:
    found = verdict(recorded(PARADIGM_3, known=known))
    assert found.verdict == "collapsed"
    assert 2 <= number(found, "onset_step") <= 6
    assert number(found, "detected_step") <= (10 if known else 12)
    assert number(found, "depth") == pytest.approx(1 - 37.7 / 64.5, abs=0.01)
    assert found.evidence["recovery"] == "partial"
    assert found.confidence is not None
    assert found.confidence > 0.99


@pytest.mark.parametrize("known", [True, False])
def test_the_recorded_growth_is_healthy(known: bool) -> None:
    found = verdict(recorded(ALPHA_0, known=known))
    assert found.verdict == "healthy"
    assert number(found, "end_ratio_low") > 1, "growth, with its band"
    assert found.evidence["onset_step"] is None


def test_what_a_collapse_is_depends_on_the_depth_asked_for() -> None:
    run = exact([100.0] * 5 + [70.0] * 15, 0.01)
    assert verdict(run).verdict == "collapsed"
    assert verdict(run, DynamicsSettings(collapse_depth=0.4)).verdict == "healthy"
    assert verdict(run, DynamicsSettings(collapse_depth=0.3)).verdict == "undetermined"
    assert verdict(run, DynamicsSettings(collapse_depth=1.0)).verdict == "healthy"


def test_recovery_is_whole_partial_or_none() -> None:
    fall = [100.0] * 3 + [50.0] * 8
    for end, recovery in (([50.0] * 8, "none"), ([65.0] * 8, "partial"), ([95.0] * 8, "recovered")):
        found = verdict(exact(fall + end, 0.02))
        assert (found.verdict, found.evidence["recovery"]) == ("collapsed", recovery)
        assert number(found, "end") == pytest.approx(end[0])
        assert number(found, "depth") == pytest.approx(0.5)


def test_few_steps_are_undetermined_unless_the_fall_is_beyond_doubt() -> None:
    assert verdict(exact([100.0] * 5, 0.01)).verdict == "undetermined"
    assert verdict(exact([100.0, 99.0, 80.0, 75.0, 70.0], 0.06)).verdict == "undetermined"
    assert verdict(exact([100.0, 20.0, 20.0, 20.0], 0.06)).verdict == "collapsed"
    assert verdict(exact([100.0])).verdict == "undetermined"
    assert verdict(exact([100.0, 20.0])).verdict == "undetermined"


def test_runs_without_lengths_or_of_length_zero_are_undetermined() -> None:
    assert verdict(exact([float("nan")] * 9)).verdict == "undetermined"
    assert verdict(exact([0.0] * 9)).verdict == "undetermined"
    assert verdict(exact([100.0] * 3 + [0.0] * 9)).verdict == "collapsed"


def test_equal_responses_have_no_noise() -> None:
    steps = pd.DataFrame({"step": range(8), "length_mean": [10.0] * 4 + [7.0] * 4})
    responses = pd.DataFrame({"step": np.repeat(range(8), 5), "length": [10] * 20 + [7] * 20})
    assert verdict(RunTables.of(steps, responses)).verdict == "collapsed"


def test_errors_are_those_of_the_mean_and_repeated_prompts_count_once() -> None:
    lengths = [1, 2, 3, 6]
    alone = length_errors(pd.DataFrame({"step": 0, "length": lengths, "prompt_id": list("abcd")}))
    assert alone["length_stderr"].item() == pytest.approx(np.std(lengths, ddof=1) / 2)
    # Two prompts with two responses each, of means 1.5 and 4.5: the error of a mean of two numbers.
    pairs = length_errors(pd.DataFrame({"step": 0, "length": lengths, "prompt_id": list("aabb")}))
    assert pairs["length_stderr"].item() == pytest.approx(np.std([1.5, 4.5], ddof=1) / 2**0.5)
    assert pairs["length_dof"].item() == 1


@given(lengths, errors, st.floats(0.01, 1000), st.booleans())
def test_the_unit_of_length_does_not_matter(values: list[float], error: float, unit: float, known: bool) -> None:
    run, scaled = (exact(np.array(values) * u, error if known else None) for u in (1.0, unit))
    assert verdict(run).verdict == verdict(scaled).verdict
    if len(values) > 2:
        assert number(verdict(scaled), "depth") == pytest.approx(number(verdict(run), "depth"), abs=1e-6)


@given(lengths, lengths, errors, st.booleans())
def test_a_collapse_is_not_taken_back_and_depends_on_nothing_later(
    first: list[float], later: list[float], error: float, known: bool
) -> None:
    stderr = error if known else None
    whole, early = exact(first + later, stderr), exact(first, stderr)
    assert verdict(whole.until(len(first) - 1)) == verdict(early)
    if verdict(early).verdict == "collapsed":
        found = verdict(whole)
        assert found.verdict == "collapsed"
        assert found.evidence["detected_step"] == verdict(early).evidence["detected_step"]
        assert found.evidence["onset_step"] == verdict(early).evidence["onset_step"]


@given(st.floats(0.0, 0.15), errors)
def test_level_runs_never_collapse(dip: float, error: float) -> None:
    assert verdict(exact([100.0] * 5 + [100 * (1 - dip)] * 15, error)).verdict != "collapsed"


def rates(runs: int, *, steps: int, known: bool, seed: int = 0, **how: float) -> Counter[str]:
    rng, curve = np.random.default_rng(seed), np.full(steps, 100.0)
    return Counter(verdict(sampled(rng, curve, known=known, **how)).verdict for _ in range(runs))  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("drift", [0.0, REALISTIC_DRIFT])
def test_noise_is_seldom_called_a_collapse(known: bool, drift: float) -> None:
    assert rates(60, steps=20, known=known, drift=drift)["collapsed"] == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_halving_is_found_soon_after_it(known: bool) -> None:
    rng = np.random.default_rng(1)
    found = [verdict(sampled(rng, falling(20, 0.5, 2), drift=0.03, known=known)) for _ in range(30)]
    hits = [v for v in found if v.verdict == "collapsed"]
    assert len(hits) >= (28 if known else 22)
    assert np.median([number(v, "detected_step") for v in hits]) <= (8 if known else 13)
    assert "healthy" not in {v.verdict for v in found}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("drift", [0.0, REALISTIC_DRIFT, 0.05])
@pytest.mark.parametrize("cv", [0.5, 1.0])
@pytest.mark.parametrize("steps", [20, 200])
def test_soak_false_alarms_on_noise_are_at_most_five_percent(steps: int, cv: float, drift: float, known: bool) -> None:
    runs = 1000
    assert rates(runs, steps=steps, known=known, cv=cv, drift=drift)["collapsed"] <= 0.05 * runs


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("n", [64, 1024])
def test_soak_a_collapse_is_seldom_called_healthy(n: int, known: bool) -> None:
    rng = np.random.default_rng(2)
    for depth, onset in ((0.3, 2), (0.3, 10), (0.5, 2), (0.5, 10)):
        found = Counter(verdict(sampled(rng, falling(20, depth, onset), n=n, known=known)).verdict for _ in range(300))
        assert found["healthy"] <= 0.05 * 300, (depth, onset, found)
