"""Jobs as pods: the same results as local subprocesses, and failures told with the pod's log."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from kubernetes.client import CoreV1Api
from kubernetes.client.exceptions import ApiException
from kubernetes.config import load_kube_config

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources import Finished, KubernetesSettings, LocalCompute, LocalSettings
from resources.compute_file import PodResources
from resources.kubernetes import KubernetesCompute
from tests.kubernetes.stand_in import StandIn
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import COMMAND, spec

MakeCompute = Callable[..., KubernetesCompute]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def kubernetes(kubeconfig: Path) -> MakeCompute:
    def make(**settings: object) -> KubernetesCompute:
        fields = {
            "kind": "kubernetes",
            "image": "registry.example/bai-jobs:1.0",
            "command": ["python", *COMMAND[1:]],
            "kubeconfig": kubeconfig,
            "store_claim": "bai-store",
            "poll_interval": 0.1,
            "result_timeout": 0.0,
            **settings,
        }
        return KubernetesCompute(KubernetesSettings.model_validate(fields))

    return make


def finished(outcome: Finished | dg.Failure) -> Finished:
    assert isinstance(outcome, Finished), outcome
    return outcome


def test_a_pod_gives_the_same_object_as_a_local_subprocess(
    kubernetes: MakeCompute, cluster: StandIn, store: Store, tmp_path: Path
) -> None:
    pod = finished(run(kubernetes(), spec("answer"), store))
    local = finished(run(LocalCompute(LocalSettings(command=COMMAND)), spec("answer"), Store(tmp_path / "other")))
    assert pod.result.digest == local.result.digest
    assert pod.result.object == local.result.object
    assert pod.result.checks == local.result.checks
    assert cluster.pods == {}, "the pod was not deleted"


def test_the_pod_has_the_claim_the_resources_and_the_job(
    kubernetes: MakeCompute, cluster: StandIn, store: Store
) -> None:
    resources = {"default": PodResources(cpu="1", memory="1Gi"), "answer": PodResources(cpu="4", memory="8Gi", gpus=2)}
    settings = {"resources": resources, "service_account": "bai-jobs", "claims": {"brought": "/models"}}
    run(kubernetes(namespace="training", **settings), spec("answer"), store)
    (pod,) = cluster.created
    (container,) = pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "training"
    assert pod["metadata"]["labels"]["bai-pipeline/job"] == spec("answer").identity
    assert pod["spec"]["serviceAccountName"] == "bai-jobs"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["terminationGracePeriodSeconds"] == 300
    assert container["image"] == "registry.example/bai-jobs:1.0"
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes[mounts[str(store.root)]]["persistentVolumeClaim"] == {"claimName": "bai-store"}
    assert volumes[mounts["/models"]]["persistentVolumeClaim"] == {"claimName": "brought", "readOnly": True}
    assert container["command"][-1].startswith(f"store:jobs/{spec('answer').identity}/spec-")


def test_a_failing_pod_is_told_with_the_tail_of_its_log(
    kubernetes: MakeCompute, cluster: StandIn, store: Store
) -> None:
    failure = run(kubernetes(), spec("crash"), store)
    assert isinstance(failure, dg.Failure)
    assert failure.description is not None
    log = store.job_directory(spec("crash").identity) / "log.txt"
    assert f"failed with exit code 1 in its pod; its log is {log} and ends with:" in failure.description
    assert failure.description.splitlines()[-1].strip() == "ZeroDivisionError: a bug"
    assert "__dagster_pipes" not in failure.description
    assert "line 0" in log.read_text().splitlines()
    assert failure.allow_retries
    assert cluster.pods == {}


def test_a_refusal_in_a_pod_is_not_retried(kubernetes: MakeCompute, store: Store) -> None:
    failure = run(kubernetes(), spec("refuse"), store)
    assert isinstance(failure, dg.Failure)
    assert "DataError: prompts.parquet holds no rows" in str(failure.description)
    assert not failure.allow_retries


def test_a_command_that_the_image_lacks_is_told(kubernetes: MakeCompute, store: Store) -> None:
    failure = run(kubernetes(command=["no-such-program"]), spec("answer"), store)
    assert isinstance(failure, dg.Failure)
    assert "cannot start no-such-program" in str(failure.description)


def test_a_cluster_that_does_not_answer_is_told(kubernetes: MakeCompute, kubeconfig: Path, store: Store) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("127.0.0.1:", "127.0.0.1:1 #"))
    failure = run(kubernetes(), spec("answer"), store)
    assert isinstance(failure, dg.Failure)
    assert "Connection refused" in str(failure.description)


def test_the_stand_in_refuses_a_pod_that_kubernetes_would_refuse(cluster: StandIn, kubeconfig: Path) -> None:
    load_kube_config(str(kubeconfig))
    with pytest.raises(ApiException, match="Unprocessable"):
        CoreV1Api().create_namespaced_pod("default", {"metadata": {"name": "x"}, "spec": {"containers": "none"}})
    assert cluster.created == []


def test_compute_changes_no_job_identity(kubernetes: MakeCompute, cluster: StandIn, store: Store) -> None:
    finished(run(kubernetes(), spec("answer"), store))
    again = finished(run(LocalCompute(LocalSettings(command=COMMAND)), spec("answer"), store))
    assert again.reused
    assert len(cluster.created) == 1


def test_a_job_specification_says_nothing_of_compute() -> None:
    text = JobSpec("answer", "1", {}, {}).to_json()
    assert "kubernetes" not in text
    assert "local" not in text
