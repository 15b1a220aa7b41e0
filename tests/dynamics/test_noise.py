"""The noise of a step, as known after each step and over a whole run."""

import numpy as np
import pytest

from bai_pipeline.dynamics.noise import estimated_error, step_error, step_noise


def test_a_trend_is_no_noise_and_noise_beyond_the_responses_is_found() -> None:
    rng = np.random.default_rng(0)
    trend = np.linspace(0, 3, 400)
    assert step_error(trend, np.full(400, 0.1))[-1] == 0
    noisy = trend + rng.normal(size=400) * 0.5
    assert np.hypot(0.3, step_error(noisy, np.full(400, 0.3))[-1]) == pytest.approx(0.5, rel=0.15)
    error, first, dof = estimated_error(noisy)
    assert error[-1] == pytest.approx(0.5, rel=0.15)
    assert first[-1] >= error[-1]
    assert dof[-1] == pytest.approx(0.45 * 398)
    assert not np.isfinite(error[:3]).any()


def test_the_noise_of_a_step_is_that_of_white_noise_and_not_of_a_trend() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.3, size=4000) + np.linspace(0, 50, 4000)
    assert step_noise(values) == pytest.approx(0.3, rel=0.05)
    scale = np.linspace(1, 3, 4000)
    assert step_noise(0.3 * scale * rng.normal(size=4000), scale) == pytest.approx(0.3, rel=0.05)
    assert np.isnan(step_noise(values[:2]))
