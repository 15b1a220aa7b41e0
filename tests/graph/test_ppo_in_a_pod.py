"""A PPO run of the smoke study in a pod, and on two nodes: the very objects that local runs make."""

import json
import shutil
from pathlib import Path

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from resources import Finished, KubernetesSettings, LocalCompute, LocalSettings, TrainJobSettings
from resources.kubernetes import ClusterCompute
from tests.graph.chain import plan_of
from tests.kubernetes.cluster import kubernetes_file, running_cluster, write_kubeconfig
from tests.resources.one_run import run


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
    key = RefKey("smoke", "ppo_run", "0.5", 0)
    spec, digest = forget(copied, plan, key)
    with running_cluster() as cluster:
        file = kubernetes_file(write_kubeconfig(cluster, tmp_path / "kubeconfig"))
        finished = run(ClusterCompute(KubernetesSettings.model_validate(file)), spec, copied)
    assert isinstance(finished, Finished), finished
    assert not finished.reused
    assert finished.result.digest == digest
    assert len(cluster.created) == 1


def test_a_ppo_run_on_two_nodes_gives_the_object_of_two_local_ranks(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    """Two real ranks, each on a node of its own; the same ranks on one machine leave the same bytes."""
    plan = plan_of(tmp_path, copied)
    key = RefKey("smoke", "ppo_run", "0.5", 0)
    spec, _ = forget(copied, plan, key)
    two_ranks = {"ranks": 2, "zero_stage": 3}
    with running_cluster() as cluster:
        file = kubernetes_file(
            write_kubeconfig(cluster, tmp_path / "kubeconfig"),
            kind="trainjob",
            ppo=two_ranks,
            jobs={"ppo": {"nodes": 2}},
        )
        spread = run(ClusterCompute(TrainJobSettings.model_validate(file)), spec, copied)
    assert isinstance(spread, Finished), spread
    (manifest,) = cluster.created
    assert (manifest["kind"], manifest["spec"]["trainer"]["numNodes"]) == ("TrainJob", 2)
    directory = copied.job_directory(spec.identity)
    (attempt,) = (directory / "attempts.jsonl").read_text().splitlines()
    assert json.loads(attempt)["ranks"] == 2
    shutil.rmtree(directory)
    shutil.rmtree(copied.path(spread.result.object))
    local = run(LocalCompute(LocalSettings.model_validate({"ppo": two_ranks})), spec, copied)
    assert isinstance(local, Finished), local
    assert spread.result.digest == local.result.digest
