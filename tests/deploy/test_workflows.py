"""GitHub's workflow: valid, with pinned actions and least rights, and calling what exists here."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.deploy.manifests import ROOT

CHECK = ROOT / ".github" / "workflows" / "check.yml"


def check(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.github-workflows", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_workflow_meets_githubs_schema() -> None:
    done = check(CHECK)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_key_of_a_workflow_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "check.yml"
    wrong.write_text(CHECK.read_text().replace("runs-on:", "run-on:"))
    assert check(wrong).returncode == 1


def test_every_action_is_pinned_to_a_commit_and_names_its_version() -> None:
    uses = re.findall(r"uses: (.*)", CHECK.read_text())
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses), uses


def test_the_workflow_may_only_read_and_keeps_no_credentials() -> None:
    workflow = yaml.safe_load(CHECK.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 60
        (checkout,) = [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
        assert checkout["with"] == {"persist-credentials": False}
    assert "secrets." not in CHECK.read_text()


def test_the_workflow_runs_the_projects_own_commands() -> None:
    commands = [
        s["run"] for job in yaml.safe_load(CHECK.read_text())["jobs"].values() for s in job["steps"] if "run" in s
    ]
    text = "\n".join(commands)
    assert "make test" in text
    assert "dagster asset materialize -m assets.definitions" in text
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", text)) <= targets
    for path in re.findall(r"deploy/[\w./-]+", text.replace("$overlay", "8x8")):
        assert (ROOT / path).exists(), path
