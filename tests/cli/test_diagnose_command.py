"""`bai diagnose`: what it prints, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bai_pipeline.cli.main import app
from bai_pipeline.errors import DataError

RUNNER = CliRunner()


def bai_diagnose(*words: str | Path, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["diagnose", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code
    return result.stdout


def as_json(*words: str | Path) -> Any:
    return json.loads(bai_diagnose(*words, "--json"))


@pytest.fixture
def collapsed(tmp_path: Path) -> Path:
    """A foreign log: step, mean_length, score, and nothing else."""
    rng = np.random.default_rng(0)
    lengths = np.r_[[100.0] * 6, [40.0] * 34] * np.exp(0.03 * rng.normal(size=40))
    rows = [f"{step},{length},{0.5 + step / 100}" for step, length in enumerate(lengths)]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(["step,mean_length,score", *rows]))
    return path


def test_a_log_of_three_columns_is_diagnosed(collapsed: Path) -> None:
    output = bai_diagnose(collapsed)
    assert "theirs" in output
    assert "length_collapse" in output
    assert "collapsed" in output


def test_json_is_one_object_of_detectors_or_of_runs(collapsed: Path, tmp_path: Path) -> None:
    alone = as_json(collapsed)
    assert alone["length_collapse"]["verdict"] == "collapsed"
    other = tmp_path / "other.csv"
    other.write_text(collapsed.read_text())
    both = as_json(collapsed, other)
    assert list(both) == ["theirs", "other"]
    assert both["theirs"] == alone


def test_the_thresholds_may_be_a_studys(collapsed: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("extends: micro\nname: lenient\ndynamics: {collapse_depth: 0.9}\n")
    assert as_json(collapsed, "--study", study)["length_collapse"]["verdict"] != "collapsed"


def test_defaults_are_said_to_be_defaults_where_no_study_is_named(collapsed: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("extends: micro\nname: narrow\n")
    assert "length buckets of 100 tokens" in RUNNER.invoke(app, ["diagnose", str(collapsed), "--json"]).stderr
    assert RUNNER.invoke(app, ["diagnose", str(collapsed), "--study", str(study)]).stderr == ""


def test_a_pipeline_can_fail_on_a_verdict(collapsed: Path) -> None:
    bai_diagnose(collapsed, "--fail-on", "collapsed", code=1)
    bai_diagnose(collapsed, "--fail-on", "truncating", code=0)


def test_a_wrong_log_is_one_message_and_exit_code_1(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n0,1\n")
    with pytest.raises(DataError, match=r"log.csv"):
        bai_diagnose(path)
    command = [sys.executable, "-m", "bai_pipeline.cli", "diagnose", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("DataError: ")
    assert "Traceback" not in result.stderr
