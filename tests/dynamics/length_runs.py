"""Runs whose lengths are known, for the tests of the detectors that read them.

Noise model: the responses of a step are log-normal with coefficient of variation `cv`; a healthy run's step means
wander by an AR(1) of coefficient 0.9 and stationary standard deviation `drift` (relative).
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bai_pipeline.dynamics.run_tables import RunTables

Floats = NDArray[np.float64]

REALISTIC_DRIFT = 0.03
"""Where their lengths are level, the micro runs vary by no more than their responses explain; this is above that."""


def wander(rng: np.random.Generator, steps: int, sd: float, phi: float = 0.9) -> Floats:
    """An AR(1) from its stationary distribution."""
    a = np.empty(steps)
    a[0] = rng.normal() * sd
    for t in range(1, steps):
        a[t] = phi * a[t - 1] + rng.normal() * sd * np.sqrt(1 - phi**2)
    return a


def sampled(
    rng: np.random.Generator, curve: Floats, *, n: int = 64, cv: float = 0.5, drift: float = 0.0, known: bool = True
) -> RunTables:
    """A run of about `curve` tokens; without `known` it has only means, as another trainer's log."""
    mean = curve * np.exp(wander(rng, len(curve), drift))
    sigma = np.sqrt(np.log1p(cv**2))
    lengths = mean[:, None] * np.exp(sigma * rng.normal(size=(len(curve), n)) - sigma**2 / 2)
    steps = pd.DataFrame({"step": np.arange(len(curve)), "length_mean": lengths.mean(1)})
    if not known:
        return RunTables.of(steps)
    responses = pd.DataFrame({"step": np.repeat(np.arange(len(curve)), n), "length": lengths.ravel()})
    return RunTables.of(steps, responses)


def falling(steps: int, depth: float, onset: int, *, over: int = 5, start: float = 100.0) -> Floats:
    """Level, then a linear fall by `depth` within `over` steps, then level."""
    fall: Floats = start * (1 - depth * np.clip((np.arange(steps) - onset) / over, 0, 1))
    return fall


def exact(values: list[float] | Floats, stderr: float | None = None) -> RunTables:
    """A run whose means are these, each with the relative error `stderr` from 64 prompts."""
    steps = pd.DataFrame({"step": np.arange(len(values)), "length_mean": np.asarray(values, dtype=np.float64)})
    if stderr is not None:
        steps["length_stderr"] = stderr * steps["length_mean"]
        steps["length_dof"] = 63
    return RunTables.of(steps)
