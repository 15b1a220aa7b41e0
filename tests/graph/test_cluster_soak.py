"""The graph on a cluster: the same results as on this machine, runs that are cancelled, and Dagster that is killed."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
import yaml

from assets.definitions import build_definitions
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from resources import Compute, LocalCompute, LocalSettings, TrainJobSettings
from resources.kubernetes import ClusterCompute
from tests.graph.chain import object_of, plan_of
from tests.graph.dagster_server import LAUNCH, ROOT, RUN_STATUS, TERMINATE, Server, wait
from tests.graph.test_dagster_dev_soak import LONG
from tests.kubernetes.cluster import kubernetes_file, running_cluster, write_kubeconfig
from tests.kubernetes.stand_in import StandIn

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ONE_ALPHA = "alphas: ['0.5']\nheadline_alpha: '0.5'\n"
TWO_RANKS = {"ranks": 2, "zero_stage": 2}
TABLES = (
    "training_dynamics",
    "paradigm_dynamics",
    "benchmark_scores",
    "paradigm_scores",
    "ratio_table",
    "paradigm_table",
)
LONG_PPO = "until_step: 30\nevaluate_at_step: 30\n"
CHECKPOINT_EVERY = 1
PPO = RefKey("smoke", "ppo_run", "0.5", 0)


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    with running_cluster() as cluster:
        yield cluster


def trainjob_file(kubeconfig: Path, **settings: Any) -> dict[str, Any]:
    """PPO on two nodes, all else in pods."""
    own = {"kind": "trainjob", "ppo": TWO_RANKS, "jobs": {"ppo": {"nodes": 2}}, "api_timeout": 30.0}
    return kubernetes_file(kubeconfig, **{**own, **settings})


def whole_chain(compute: Compute, plan: Plan, study: Path) -> None:
    """Everything of a study with one alpha, as the job that a person starts."""
    definitions = build_definitions(str(study), str(plan.store.root), compute)
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("whole_chain").execute_in_process(partition_key="0.5", instance=instance)
    assert result.success


def test_the_smoke_graph_on_a_cluster_leaves_the_tables_of_this_machine(cluster: StandIn, tmp_path: Path) -> None:
    plans = {name: plan_of(tmp_path, Store(tmp_path / name), ONE_ALPHA) for name in ("local", "cluster")}
    study = tmp_path / "smoke.yaml"
    whole_chain(LocalCompute(LocalSettings.model_validate({"ppo": TWO_RANKS, "preload": True})), plans["local"], study)
    file = trainjob_file(write_kubeconfig(cluster, tmp_path / "kubeconfig"))
    whole_chain(ClusterCompute(TrainJobSettings.model_validate(file)), plans["cluster"], study)
    kinds = [manifest["kind"] for manifest in cluster.created]
    assert kinds.count("TrainJob") == 3  # two baselines and one alpha
    assert kinds.count("Pod") >= 10
    assert not cluster.running()
    local, remote = (
        {str(key): plan.store.read_ref(key) for asset in TABLES for key in plan.keys(asset)} for plan in plans.values()
    )
    assert local.keys() == remote.keys()
    for key, ref in local.items():
        other = remote[key]
        assert ref is not None
        assert other is not None
        assert other.digest == ref.digest, key


@pytest.fixture
def environment(cluster: StandIn, smoke: Plan, copied: Store, tmp_path: Path) -> dict[str, str]:
    """Of a Dagster process on the cluster, with everything of smoke in its store and PPO of thirty steps to do."""
    plan_of(tmp_path, copied, LONG + LONG_PPO)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / "deploy" / "dagster.yaml").read_text())
    compute = tmp_path / "compute.yaml"
    compute.write_text(yaml.safe_dump(trainjob_file(write_kubeconfig(cluster, tmp_path / "kubeconfig"))))
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "BAI_STUDY": str(tmp_path / "smoke.yaml"),
        "BAI_STORE": str(copied.root),
        "BAI_COMPUTE": str(compute),
    }


def test_a_run_that_is_cancelled_in_the_user_interface_ends_its_pod(
    cluster: StandIn, environment: dict[str, str], tmp_path: Path
) -> None:
    server = Server(environment, tmp_path / "dev.log")
    try:
        wait(server.is_up, 300)
        run = server.ask(LAUNCH, asset="base_model")["run"]["runId"]
        wait(cluster.running, 300)
        time.sleep(5)
        server.ask(TERMINATE, id=run)
        start = time.monotonic()
        wait(lambda: not cluster.running() and not cluster.pods, 30)
        seconds = time.monotonic() - start
        wait(lambda: server.ask(RUN_STATUS, id=run)["status"] == "CANCELED", 60)
        time.sleep(15)  # longer than the delay of a retry
        assert len(cluster.created) == 1
        assert not cluster.running()
    finally:
        server.stop()
    print(f"the pod ended {seconds:.1f} s after the run was cancelled")
    assert seconds <= 10


@pytest.mark.parametrize("pods", ["go on", "are lost, too"])
def test_dagster_that_is_killed_in_a_ppo_run_goes_on_with_it_when_it_is_started_again(
    pods: str, cluster: StandIn, environment: dict[str, str], copied: Store, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, copied, LONG_PPO)
    spec = plan.spec(PPO)
    shutil.rmtree(copied.root / "jobs" / spec.identity)  # its two steps were made by one rank
    states = copied.job_directory(spec.identity) / "work" / "state"
    with dagster(environment, tmp_path / "first.log") as first:
        wait(lambda: steps_in(states) >= 3 or first.poll() is not None, 600)
        assert first.poll() is None, (tmp_path / "first.log").read_text()[-3000:]
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert len(cluster.running()) == 2
    reached = steps_in(states)
    if pods == "are lost, too":
        for pid in cluster.running():
            os.killpg(pid, signal.SIGKILL)
        wait(lambda: not cluster.running(), 60)
    with dagster(environment, tmp_path / "second.log") as second:
        assert second.wait(900) == 0, (tmp_path / "second.log").read_text()[-3000:]
    steps = pq.read_table(object_of(plan, "ppo_run", "0.5", 0) / "steps").column("step").to_pylist()
    assert sorted(steps) == list(range(30))
    log = (copied.job_directory(spec.identity) / "log.txt").read_text()
    if pods == "go on":
        assert len(cluster.created) == 1
        assert "taken over" in (tmp_path / "second.log").read_text()
    else:
        assert len(cluster.created) == 2
        (again,) = re.findall(r"^continuing after step (\d+)$", log, re.MULTILINE)
        print(f"killed after checkpoint {reached}, continued after step {again}")
        assert int(again) > reached - CHECKPOINT_EVERY


def dagster(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """`dagster asset materialize` of one PPO run, in a session of its own."""
    command = ["asset", "materialize", "-m", "assets.definitions", "--select", "ppo_run", "--partition", "0.5"]
    with log.open("wb") as file:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "dagster"), *command],
            env=environment,
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def steps_in(states: Path) -> int:
    """The last step that a PPO run has a checkpoint of."""
    return max((int(path.name.removeprefix("step-")) for path in states.glob("step-*")), default=0)
