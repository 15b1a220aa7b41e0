"""The commands that people type, on the smoke study, as processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from assets.demo.progress import Progress
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from tests.graph.chain import plan_of

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def environment(smoke: Plan, copied: Store, tmp_path: Path) -> dict[str, str]:
    plan_of(tmp_path, copied)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "deploy" / "dagster.yaml").read_text())
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "BAI_STUDY": str(tmp_path / "smoke.yaml"),
        "BAI_STORE": str(copied.root),
    }


def call(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_dagster_materializes_an_actor_of_the_grid_that_the_study_does_not_list(
    environment: dict[str, str], copied: Store
) -> None:
    call(environment, "dagster", "asset", "materialize", "-m", "assets.definitions", "--select", "bai_actor", "--partition", "0.7")  # fmt: skip  # noqa: E501
    assert copied.read_ref(RefKey("smoke", "bai_actor", "0.7")) is not None


def test_dg_launches_an_actor(environment: dict[str, str]) -> None:
    assert "RUN_SUCCESS" in call(environment, "dg", "launch", "--assets", "bai_actor", "--partition", "0.5")


def test_dagster_validates_the_definitions(environment: dict[str, str]) -> None:
    assert "All code locations passed validation" in call(environment, "dagster", "definitions", "validate")


def test_dagster_lists_the_assets_of_the_study(environment: dict[str, str], smoke: Plan) -> None:
    listed = call(environment, "dagster", "asset", "list", "-m", "assets.definitions").splitlines()
    assert set(smoke.assets) <= set(listed)


def test_the_demo_has_nothing_to_do_when_all_is_fresh_and_shows_both_tables(environment: dict[str, str]) -> None:
    text = call(environment, "python", "-X", "importtime", "-m", "assets.demo")
    shown = [line for line in text.splitlines() if not line.startswith("import time:")]
    assert shown[-1] == "Study smoke: everything is fresh, nothing to do."
    assert any(line.startswith("| BAI (alpha 0.5) |") for line in shown)
    assert any(line.startswith("| 0.0 | 1 |") for line in shown)
    loaded = {line.rpartition("|")[2].strip() for line in text.splitlines() if line.startswith("import time:")}
    assert not loaded & {"dagster", "torch", "transformers", "pandas"}


def test_the_demo_says_where_the_time_of_its_jobs_went(copied: Store, tmp_path: Path) -> None:
    """Of jobs that took as long as is said here: assets below a second have a line together."""
    plan = plan_of(tmp_path, copied)
    seconds = {"base_model": 20, "ppo_run": 3}
    for key in plan.all_keys():
        ref = copied.read_ref(key)
        assert ref is not None
        job = copied.root / "jobs" / ref.job
        os.utime(job / "attempts.jsonl", (1000, 1000))
        os.utime(job / "result.json", (0, 1000 + seconds.get(key.asset, 0.1)))
    others = [key for key in plan.all_keys() if key.asset not in seconds]
    count, total = len({key.asset for key in others}), f"{0.1 * len(others):.0f}"
    *lines, phases = Progress(plan).spent()
    assert lines == [
        "base_model: 20 s in 1 job",
        "ppo_run: 6 s in 2 jobs",
        f"{count} others: {total} s in {len(others)} jobs",
    ]
    assert re.fullmatch(
        r"of the PPO runs: sample \d+ s, score \d+ s, estimate \d+ s, update \d+ s; the rest is loading and saving",
        phases,
    )


def test_the_demo_makes_what_is_stale_and_says_how_long_each_part_took(
    environment: dict[str, str], copied: Store, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, copied, "tables: {case_studies: 2}\n")
    stale = {str(key) for key, status in plan.status().items() if status.state != "fresh"}
    assert "case_studies" in stale
    assert not any("ppo_run" in name for name in stale)
    lines = call(environment, "python", "-m", "assets.demo").splitlines()
    parts = r"models (\d+) s, runs and scores (\d+) s, tables and report (\d+) s"
    match = re.fullmatch(rf"Study smoke: done in .+: {parts}\.", lines[-1])
    assert match is not None, lines[-1]
    assert int(match[3]) > max(1, int(match[2]))
    assert {status.state for status in plan.status().values()} == {"fresh"}


def test_a_demo_whose_run_fails_says_which_and_why(environment: dict[str, str], copied: Store, tmp_path: Path) -> None:
    plan_of(tmp_path, copied, "evals: {benchmarks: [held_out_nothing]}\n")
    done = subprocess.run(
        [sys.executable, "-m", "assets.demo"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DataError: expected benchmarks out of held_out_sum" in done.stdout
    assert "The demo stopped: models (benchmark_data) failed." in done.stdout
