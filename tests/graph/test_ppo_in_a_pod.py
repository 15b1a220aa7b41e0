"""A PPO run of the smoke study in a pod, and on two nodes: the very objects that local runs make."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from resources import Finished, KubernetesSettings, LocalCompute, LocalSettings, TrainJobSettings
from resources.kubernetes import ClusterCompute
from tests.graph.chain import plan_of
from tests.kubernetes.cluster import kubernetes_file, running_cluster, write_kubeconfig
from tests.resources.one_run import run

PPO = RefKey("smoke", "ppo_run", "0.5", 0)


def forget(store: Store, plan: Plan, key: RefKey) -> tuple[JobSpec, str]:
    """Forget a PPO run that is done; returns its job and the digest of what it made."""
    ref, spec = store.read_ref(key), plan.spec(key)
    assert ref is not None
    assert ref.job == spec.identity
    shutil.rmtree(store.root / "jobs" / ref.job)
    shutil.rmtree(store.path(ref.object))
    return spec, ref.digest


def test_a_ppo_run_in_a_pod_gives_the_object_of_the_local_run(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied)
    spec, digest = forget(copied, plan, PPO)
    with running_cluster() as cluster:
        file = kubernetes_file(write_kubeconfig(cluster, tmp_path / "kubeconfig"))
        finished = run(ClusterCompute(KubernetesSettings.model_validate(file)), spec, copied)
    assert isinstance(finished, Finished), finished
    assert not finished.reused
    assert finished.result.digest == digest
    assert len(cluster.created) == 1


TWO_RANKS = {"ranks": 2, "zero_stage": 3}


def run_on_two_nodes(spec: JobSpec, store: Store, directory: Path) -> Finished:
    """Two real ranks, each on a node of its own."""
    with running_cluster() as cluster:
        file = kubernetes_file(
            write_kubeconfig(cluster, directory / "kubeconfig"),
            kind="trainjob",
            ppo=TWO_RANKS,
            jobs={"ppo": {"nodes": 2}},
        )
        finished = run(ClusterCompute(TrainJobSettings.model_validate(file)), spec, store)
    assert isinstance(finished, Finished), finished
    (manifest,) = cluster.created
    assert (manifest["kind"], manifest["spec"]["trainer"]["numNodes"]) == ("TrainJob", 2)
    return finished


def test_a_ppo_run_on_two_nodes_has_a_rank_on_each(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied)
    spec, _ = forget(copied, plan, PPO)
    finished = run_on_two_nodes(spec, copied, tmp_path)
    steps = pq.read_table(copied.open(finished.result.object) / "steps").column("step").to_pylist()
    assert steps == [0, 1]
    directory = copied.job_directory(spec.identity)
    (attempt,) = (directory / "attempts.jsonl").read_text().splitlines()
    assert json.loads(attempt)["ranks"] == 2
    assert "2/2, " in (directory / "log.txt").read_text()
    assert "2/2, " not in (directory / "log-node-1.txt").read_text()  # one rank speaks


@pytest.mark.soak
def test_a_ppo_run_on_two_nodes_gives_the_object_of_two_local_ranks(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied)
    spec, _ = forget(copied, plan, PPO)
    spread = run_on_two_nodes(spec, copied, tmp_path)
    shutil.rmtree(copied.job_directory(spec.identity))
    shutil.rmtree(copied.path(spread.result.object))
    local = run(LocalCompute(LocalSettings.model_validate({"ppo": TWO_RANKS})), spec, copied)
    assert isinstance(local, Finished), local
    assert spread.result.digest == local.result.digest
