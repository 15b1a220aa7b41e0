import shutil
from pathlib import Path

import pytest

from assets.demo.runs import Worker
from assets.demo.tasks import TABLES, waves
from bai_pipeline.plan import Plan
from bai_pipeline.store import Store
from bai_pipeline.study import load_study

ROOT = Path(__file__).parents[2]


def test_workers_that_start_together_do_not_disturb_each_other_in_a_fresh_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(ROOT / "deploy" / "dagster.yaml", home / "dagster.yaml")
    for name, value in {"DAGSTER_HOME": home, "BAI_STUDY": "smoke", "BAI_STORE": tmp_path / "store"}.items():
        monkeypatch.setenv(name, str(value))
    workers = [Worker(home / "demo" / f"worker-{number}.log") for number in range(3)]
    ends = [worker.close() for worker in workers]  # each ends once it is ready and finds no order
    assert ends == [0, 0, 0], [worker.log.read_text() for worker in workers]


def test_a_worker_that_ended_with_an_order_waiting_can_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "absent"))
    worker = Worker(tmp_path / "worker.log")
    worker.start({"assets": ["base_model"], "partition": None, "log": str(tmp_path / "run.log")})
    worker.interrupt()
    assert worker.close() != 0


def test_what_needs_scores_is_made_after_them(tmp_path: Path) -> None:
    plan = Plan(load_study("smoke"), Store(tmp_path))
    models, runs, tables = ([asset for task in wave for asset in task.assets] for wave in waves(plan))
    assert {"benchmark_scores", "paradigm_scores"} <= set(runs)
    assert set(tables) == set(TABLES)
    assert {"contamination", "reward_model"} <= set(models)
    assert {*models, *runs, *tables} == set(plan.assets)
