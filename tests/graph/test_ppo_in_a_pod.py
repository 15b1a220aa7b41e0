"""A PPO run of the smoke study in a pod: the very object that a local run made."""

import shutil
from pathlib import Path

from bai_pipeline.plan import Plan
from bai_pipeline.store import RefKey, Store
from resources import Finished, KubernetesSettings
from resources.kubernetes import KubernetesCompute
from tests.graph.chain import plan_of
from tests.kubernetes.cluster import running_cluster, write_kubeconfig
from tests.resources.one_run import run


def test_a_ppo_run_in_a_pod_gives_the_object_of_the_local_run(smoke: Plan, copied: Store, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, copied)
    key = RefKey("smoke", "ppo_run", "0.5", 0)
    ref, spec = copied.read_ref(key), plan.spec(key)
    assert ref is not None
    assert ref.job == spec.identity
    shutil.rmtree(copied.root / "jobs" / ref.job)
    shutil.rmtree(copied.path(ref.object))
    with running_cluster() as cluster:
        settings = KubernetesSettings(
            kind="kubernetes",
            image="registry.example/bai-jobs:1.0",
            kubeconfig=write_kubeconfig(cluster, tmp_path / "kubeconfig"),
            store_claim="bai-store",
            poll_interval=0.5,
            result_timeout=0.0,
        )
        finished = run(KubernetesCompute(settings), spec, copied)
    assert isinstance(finished, Finished), finished
    assert not finished.reused
    assert finished.result.digest == ref.digest
    assert len(cluster.created) == 1
