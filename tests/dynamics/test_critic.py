"""The critic's offset: the algebra behind it, checked with the trainer's own GAE, and verdicts on made responses.

Noise model: 64 responses a step of geometric length (mean 60, at most 150), scores R with sd 0.9; the critic is
V = v + c with v the mean score and c the offset, so that V − R has the scores' whole noise; `stop_gap` is
−c (1 − mean λ^k) with the error of 64 responses; 3 or 10 steps.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bai_pipeline.dynamics.critic import detect, length_score_correlation, long_prefix_error, stop_bias
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import UNDETERMINED
from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.ppo.math import gae

SETTINGS = DynamicsSettings()
SD, WIDTH = 0.9, 20


def made_run(
    rng: np.random.Generator,
    offset: float,
    *,
    steps: int = 3,
    gap: float | None = None,
    pull: float = 0.0,
    batch: int = 64,
) -> RunTables:
    """A run of the module's noise model; offset and gap in sds of the scores; `pull`: sds of score per sd of length."""
    rows, responses, prefixes = [], [], []
    for step in range(steps):
        length = np.minimum(rng.geometric(1 / 60, batch), 150)
        noise = rng.normal(size=batch)
        score = SD * (noise + pull * (length - 55) / 45)
        error = offset * SD - score
        for first in range(0, 150, WIDTH):
            tokens = np.clip(length - first, 0, WIDTH)
            if tokens.sum():
                mean = float(tokens @ error / tokens.sum())
                prefixes.append({"step": step, "prefix": first, "tokens": int(tokens.sum()), "value_error": mean})
        ahead = np.concatenate([0.95 ** np.arange(1, n) for n in length])
        expected = -offset * SD * (1 - ahead.mean()) if gap is None else gap * SD
        row = {"step": step, "length_mean": length.mean(), "score_mean": score.mean(), "score_std": score.std()}
        rows.append({**row, "stop_gap": expected + SD * rng.normal() / np.sqrt(batch)})
        responses.append(pd.DataFrame({"step": step, "length": length, "score": score}))
    return RunTables.of(pd.DataFrame(rows), pd.concat(responses), pd.DataFrame(prefixes))


def first_advantage(values: list[float], score: float, lam: float) -> float:
    """GAE of the first of len(values) tokens, the last of which earns `score`."""
    rewards = torch.zeros(1, len(values), dtype=torch.float64)
    rewards[0, -1] = score
    mask = torch.ones(1, len(values), dtype=torch.bool)
    return float(gae(rewards, torch.tensor([values], dtype=torch.float64), mask, gamma=1.0, lam=lam)[0][0, 0])


@given(
    st.floats(-2, 2),
    st.lists(st.floats(-2, 2), min_size=1, max_size=30),
    st.floats(-2, 2),
    st.floats(0, 1),
)
def test_what_stopping_gains_by_the_critics_error_is_that_of_the_prefixes_ahead(
    here: float, ahead: list[float], value: float, lam: float
) -> None:
    """With true value and score equal, stopping and going on are worth the same; only the critic's errors differ."""
    stop = first_advantage([value + here], value, lam)
    go_on = first_advantage([value + c for c in (here, *ahead)], value, lam)
    assert stop - go_on == pytest.approx(stop_bias(np.array(ahead), lam=lam), abs=1e-9)


@given(st.floats(-2, 2), st.integers(1, 60), st.floats(0, 1))
def test_a_constant_error_c_pays_stopping_minus_c_times_one_minus_lambda_to_the_tokens_left(
    c: float, tokens: int, lam: float
) -> None:
    assert stop_bias(np.full(tokens, c), lam=lam) == pytest.approx(-c * (1 - lam**tokens), abs=1e-9)


def test_lambda_one_is_immune() -> None:
    assert stop_bias(np.array([-0.5, -1.0, 2.0]), lam=1.0) == 0.0


@pytest.mark.parametrize(
    ("offset", "word", "announces"),
    [
        (-0.9, "underestimates_long_prefixes", "shortening"),
        (0.9, "overestimates_long_prefixes", "growth"),
        (0.0, "calibrated", "nothing"),
    ],
)
def test_an_offset_is_told_by_its_sign(offset: float, word: str, announces: str) -> None:
    verdict = detect(made_run(np.random.default_rng(2), offset), SETTINGS)
    assert verdict.verdict == word
    assert verdict.evidence["announces"] == announces
    assert verdict.evidence["value_error"] == pytest.approx(offset, abs=0.3)
    assert verdict.confidence is not None
    assert verdict.confidence > 0.9


def test_an_unknown_stop_gap_halves_the_confidence() -> None:
    run = made_run(np.random.default_rng(1), -1.0)
    both = detect(run, SETTINGS)
    alone = detect(RunTables.of(run.steps.drop(columns="stop_gap"), run.responses, run.prefixes), SETTINGS)
    assert alone.verdict == "underestimates_long_prefixes"
    assert both.confidence is not None
    assert alone.confidence is not None
    assert alone.confidence == pytest.approx(both.confidence / 2, abs=0.01)
    assert "stop_gap is not known" in alone.reason


def test_readings_that_disagree_are_undetermined() -> None:
    verdict = detect(made_run(np.random.default_rng(1), -1.0, gap=-0.5), SETTINGS)
    assert verdict.verdict == UNDETERMINED
    assert "disagree" in verdict.reason
    assert verdict.evidence["announces"] == "nothing"


def test_a_reward_that_favors_length_contests_the_announcement() -> None:
    verdict = detect(made_run(np.random.default_rng(3), -1.5, pull=0.8), SETTINGS)
    assert verdict.verdict == "underestimates_long_prefixes"
    assert verdict.evidence["announces"] == "contested"
    assert "pulls the other way" in verdict.reason


def test_few_responses_are_undetermined() -> None:
    verdict = detect(made_run(np.random.default_rng(4), -0.3, steps=1, batch=16), SETTINGS)
    assert verdict.verdict == UNDETERMINED
    assert verdict.confidence is None


def test_only_the_first_steps_are_read() -> None:
    early, late = made_run(np.random.default_rng(5), -1.0), made_run(np.random.default_rng(6), 5.0, steps=10)
    tables = [
        pd.concat([a, b[b["step"] >= 3]])
        for a, b in ((early.steps, late.steps), (early.responses, late.responses), (early.prefixes, late.prefixes))
        if a is not None and b is not None
    ]
    assert detect(RunTables.of(*tables), SETTINGS) == detect(early, SETTINGS)


def test_without_prefixes_spread_or_long_responses_nothing_is_determined() -> None:
    run = made_run(np.random.default_rng(7), -1.0)
    assert run.prefixes is not None
    assert "was not recorded" in detect(RunTables.of(run.steps, run.responses), SETTINGS).reason
    assert "spread" in detect(RunTables.of(run.steps.assign(score_std=0.0), None, run.prefixes), SETTINGS).reason
    bare = RunTables.of(run.steps.drop(columns="score_std"), None, run.prefixes)
    assert detect(bare, SETTINGS).verdict == UNDETERMINED
    one = RunTables.of(run.steps, None, run.prefixes[run.prefixes["prefix"] == 0])
    assert "one bucket" in detect(one, SETTINGS).reason
    short = RunTables.of(run.steps.assign(length_mean=1e4), None, run.prefixes)
    assert "No prefix" in detect(short, SETTINGS).reason


def test_the_mean_over_long_prefixes_is_weighted_by_tokens_and_its_error_is_that_of_responses() -> None:
    table = pd.DataFrame({"prefix": [0, 20, 40], "tokens": [400, 400, 100], "value_error": [9.0, 1.0, 2.0]})
    mean, responses = long_prefix_error(table, 15, width=20)
    assert mean == pytest.approx((400 * 1.0 + 100 * 2.0) / 500)
    # 20 responses reach the bucket at 20, 5 of them go through the next: tokens 15 × 20 and 5 × 40.
    weights = np.array([20.0] * 15 + [40.0] * 5)
    assert responses == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert long_prefix_error(table, 100, width=20)[1] == 0.0


def test_length_and_score_are_correlated_within_steps() -> None:
    rng = np.random.default_rng(8)
    step, length = np.repeat([0, 1], 500), rng.normal(size=1000)
    table = pd.DataFrame({"step": step, "length": length + 50 * step, "score": -length + rng.normal(size=1000)})
    r, z = length_score_correlation(table)
    assert r == pytest.approx(-1 / np.sqrt(2), abs=0.05)
    assert z < -20
    assert np.isnan(length_score_correlation(table.assign(score=1.0))[0])


def false_alarms(runs: int, *, offset: float, steps: int) -> float:
    """Share of runs with an offset of at most `critic_error` that are said to have one."""
    rng, settings = np.random.default_rng(0), DynamicsSettings(critic_steps=steps)
    words = [detect(made_run(rng, offset, steps=steps), settings).verdict for _ in range(runs)]
    return sum(word not in ("calibrated", UNDETERMINED) for word in words) / runs


def test_a_calibrated_critic_is_seldom_accused() -> None:
    assert false_alarms(150, offset=0.0, steps=3) <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("offset", [0.0, -0.1, 0.1])
def test_at_most_one_in_twenty_critics_within_the_threshold_is_accused(offset: float, steps: int) -> None:
    assert false_alarms(1000, offset=offset, steps=steps) <= 0.05


@pytest.mark.soak
@pytest.mark.parametrize("offset", [-0.6, 0.6])
def test_most_offsets_are_found(offset: float) -> None:
    rng = np.random.default_rng(0)
    words = [detect(made_run(rng, offset), SETTINGS).verdict for _ in range(200)]
    word = "underestimates_long_prefixes" if offset < 0 else "overestimates_long_prefixes"
    assert words.count(word) >= 160
