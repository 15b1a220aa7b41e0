"""The numbers of the page on scale that `bai plan` counts are those that it counts."""

import json
import re

import pytest
from typer.testing import CliRunner

from bai_pipeline.cli.main import app
from tests.deploy.manifests import ROOT

PAGE = (ROOT / "docs" / "design" / "011-scale-on-paper.md").read_text()
GIB = 2**30


def test_the_table_is_what_the_command_counts() -> None:
    (command,) = re.findall(r"`bai (plan paper [^`]*--json)`", PAGE)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    counted = json.loads(done.stdout)
    rows = re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", PAGE, re.MULTILINE)
    assert len(rows) == 6
    for key, gib in rows:
        value = counted
        for part in key.split("."):
            value = value[part]
        assert float(gib) == pytest.approx(value / GIB, abs=0.05), key


def test_the_claim_of_the_large_overlay_holds_the_sweep() -> None:
    (sweep,) = re.findall(r"^\| `disk.sweep` \| ([\d.]+) \|", PAGE, re.MULTILINE)
    patch = (ROOT / "deploy" / "overlays" / "8x8" / "kustomization.yaml").read_text()
    (claim,) = re.findall(r"value: (\d+)Ti", patch)
    assert int(claim) * 1024 > float(sweep)
