"""PPO runs that nobody trained, for the tests of successive halving: their scores and lengths are known exactly."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

RESPONSES = 64
SPREAD = np.linspace(0.7, 1.3, RESPONSES)
"""Lengths of a step's responses over their mean: known to 3%, so a fall by more than half is beyond noise at once."""


def write_run(
    path: Path, level: float, *, steps: int, seed: int = 0, collapses: bool = False, stopped: bool = False
) -> Path:
    """The object of a run of so many steps: the score rises from 0 towards `level`, so curves never cross.

    Lengths stay at 50 tokens, or fall to 15 within the first three steps. A run's beginning does not depend on how far
    it was trained.
    """
    rows, responses = [], []
    for step in range(steps):
        length = 50 * SPREAD * (1 - 0.7 * min(1.0, step / 3) if collapses else 1)
        score = level * step / (step + 5) + 0.01 * seed
        rows.append({"seed": seed, "step": step, "length_mean": length.mean(), "score_mean": score, "accuracy": 0.5})
        responses.append(
            pd.DataFrame({"seed": seed, "step": step, "length": length, "score": score, "finish_reason": "stop"})
        )
    prefixes = pd.DataFrame({"seed": seed, "step": range(steps), "prefix": 0, "tokens": 640, "value_error": 0.0})
    tables = {"steps": pd.DataFrame(rows), "responses": pd.concat(responses), "prefixes": prefixes}
    for name, table in tables.items():
        (path / name).mkdir(parents=True)
        table.to_parquet(path / name / "part-000000.parquet", index=False)
    why = {"step": steps, "reason": "the lengths collapsed", "dynamics": {}} if stopped else None
    (path / "run.json").write_text(json.dumps({"until_step": steps, "policies": {}, "stopped": why}))
    return path
