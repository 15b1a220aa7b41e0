"""All detectors over one run."""

import json

import numpy as np
import pandas as pd

from bai_pipeline.dynamics.diagnosis import COLUMNS, DETECTORS, diagnose
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics_settings import DynamicsSettings


def plain() -> RunTables:
    """All that any log has: a step, a length, a score."""
    lengths = np.r_[[100.0] * 4, [40.0] * 26] * np.exp(0.03 * np.random.default_rng(0).normal(size=30))
    return RunTables.of(pd.DataFrame({"step": range(30), "length_mean": lengths, "score_mean": 0.5}))


def test_every_detector_speaks_under_its_own_name() -> None:
    verdicts = diagnose(plain(), DynamicsSettings()).verdicts
    assert list(verdicts) == list(DETECTORS)
    assert {name: verdict.detector for name, verdict in verdicts.items()} == {name: name for name in DETECTORS}
    assert set(DETECTORS) == {
        *("length_collapse", "reward_hockey_stick", "over_optimization", "critic_offset", "kl_train_sample"),
        *("truncation", "entropy_collapse", "router_collapse"),
    }


def test_a_step_a_length_and_a_score_are_enough() -> None:
    verdicts = diagnose(plain()).verdicts
    assert verdicts["length_collapse"].verdict == "collapsed"
    for name in ("critic_offset", "kl_train_sample", "truncation", "entropy_collapse", "router_collapse"):
        assert verdicts[name].verdict == "undetermined"


def test_json_is_strict_and_has_a_key_per_detector() -> None:
    def refused(text: str) -> float:
        raise AssertionError(f"{text} is no JSON")

    run = RunTables.of(pd.DataFrame({"step": range(3), "length_mean": [5.0, 6.0, 5.0]}))
    for diagnosis in (diagnose(plain()), diagnose(run)):
        values = json.loads(diagnosis.to_json(), parse_constant=refused)
        assert list(values) == list(DETECTORS)
        for entry in values.values():
            assert set(entry) == {"verdict", "confidence", "reason", "evidence"}
        assert diagnosis.to_json() == diagnosis.to_json()


def test_the_table_has_the_columns_that_reports_read() -> None:
    frame = diagnose(plain()).to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert list(frame["detector"]) == list(DETECTORS)
    assert frame["confidence"].dtype == np.float64
    evidence = dict(zip(frame["detector"], frame["evidence"], strict=True))["length_collapse"]
    assert json.loads(evidence)["start_step"] == 0


def test_texts_name_the_verdict_and_the_reason() -> None:
    diagnosis = diagnose(plain())
    reason = diagnosis.verdicts["length_collapse"].reason
    for text in (diagnosis.to_text(), diagnosis.to_markdown()):
        assert "collapsed" in text
        assert reason in text
        assert text.count("undetermined") >= 5
