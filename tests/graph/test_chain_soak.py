"""The chain at length: ten kills at random moments, and the robust outcomes of the small-scale experiment."""

import random
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.jobs.runner import read_result, write_spec
from bai_pipeline.plan import Plan
from bai_pipeline.store import Store
from bai_pipeline.study import load_study
from tests.graph.chain import job_process, materialize, object_of, plan_of, tables

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

KILLS = 10
LONG = "evaluate_at_step: 500\nuntil_step: 500\ncheckpoint_every: 3\nalphas: ['0.5']\nseeds: [7]\n"


def test_ten_kills_at_random_moments_change_no_byte_of_the_tables(tmp_path: Path) -> None:
    """A kill may come while the job imports, loads a checkpoint, samples, trains, or writes a checkpoint."""
    undisturbed = plan_of(tmp_path, Store(tmp_path / "undisturbed"), LONG)
    upstream = [
        key for asset in undisturbed.assets[: undisturbed.assets.index("ppo_run")] for key in undisturbed.keys(asset)
    ]
    materialize(undisturbed, [key for key in upstream if key.asset not in ("paradigm_1_run", "paradigm_3_run")])
    killed = Plan(undisturbed.study, Store(tmp_path / "killed"))
    shutil.copytree(undisturbed.store.root, killed.store.root)
    (key,) = undisturbed.keys("ppo_run")
    materialize(undisturbed, [key])

    spec = killed.spec(key)
    uri = write_spec(spec, killed.store)
    for _ in range(KILLS):
        process = job_process(killed.store, uri)
        with pytest.raises(subprocess.TimeoutExpired):  # a job that ends before it is killed makes the test mean less
            process.wait(timeout=random.uniform(0.5, 14))
        process.kill()
        process.wait()
    state = killed.store.job_directory(spec.identity) / "work" / "state"
    print(f"killed {KILLS} times; the last checkpoint is {max(p.name for p in state.glob('step-*'))} of 500")
    (result,) = materialize(killed, [key]).values()
    assert read_result(spec, killed.store) == result
    assert tables(killed, key) == tables(undisturbed, key)
    assert object_of(killed, "ppo_run", "0.5", 7).name == object_of(undisturbed, "ppo_run", "0.5", 7).name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("micro") / "store")


@pytest.mark.parametrize("preset", ["micro-kl", "micro-verifiable"])
def test_ppo_from_bai_gains_accuracy_in_three_seeds(preset: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        f"extends: {preset}\nname: {preset}-soak\nalphas: ['0.5']\nheadline_alpha: '0.5'\nseeds: [0, 1, 2]\n"
    )
    plan = Plan(load_study(path), store)
    wanted = plan.assets[: plan.assets.index("bai_actor") + 1]
    materialize(plan, [key for asset in wanted for key in plan.keys(asset)])
    materialize(plan, plan.keys("ppo_run"))
    gains = {}
    for seed in plan.study.seeds:
        accuracy = pd.read_parquet(object_of(plan, "ppo_run", "0.5", seed) / "steps")["accuracy"]
        gains[seed] = float(accuracy.iloc[-3:].mean() - accuracy.iloc[0])
    print(f"{preset}: gain in accuracy, last three steps over the first: {gains}")
    assert min(gains.values()) >= 0.3, gains
