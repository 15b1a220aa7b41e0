"""Manifests: valid Kubernetes, strictly checked, and what the compute file asks for."""

import copy
from pathlib import Path
from typing import Any

import pytest

from resources import KubernetesSettings, TrainJobSettings
from resources.manifests import Launch, pod, trainjob
from tests.kubernetes.stand_in.schemas import fault_of

LAUNCH = Launch("0" * 32, "ppo", "store:jobs/x/spec-y.json", Path("/store"), "/store", "run-1", {"BAI_STORE": "/store"})
EVERYTHING: dict[str, Any] = {
    "cpu": "16",
    "memory": "128Gi",
    "gpus": 8,
    "gpu_resource": "amd.com/gpu",
    "image": "registry.example/bai-rocm:1.0",
    "node_selector": {"example.com/gpu": "mi300"},
    "tolerations": [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "volumes": {
        "models": {"claim": "models", "mount": "/models", "read_only": True},
        "settings": {"config_map": "nccl", "mount": "/etc/nccl"},
        "scratch": {"disk": "100Gi", "mount": "/scratch"},
        "shm": {"memory": "64Gi", "mount": "/dev/shm"},
    },
    "queue": "gpus",
    "deadline": 86400,
    "env": {"NCCL_DEBUG": "WARN"},
    "secrets": {"JUDGE_API_KEY": {"secret": "judge", "key": "token"}},
    "security": {"user": 1000, "group": 1000, "fs_group": 2000},
}
FILE = {
    "image": "registry.example/bai-jobs:1.0",
    "store_claim": "bai-store",
    "service_account": "bai-jobs",
    "image_pull_secrets": ["registry"],
    "claims": {"brought": "/brought"},
}


def kubernetes_settings(**job: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"kind": "kubernetes", **FILE, "jobs": {"ppo": job}})


def trainjob_settings(**job: Any) -> TrainJobSettings:
    file = {"kind": "trainjob", **FILE, "ppo": {"ranks": 16}, "jobs": {"ppo": {"nodes": 2, "gpus": 8, **job}}}
    return TrainJobSettings.model_validate(file)


MANIFESTS = {
    "a pod with nothing": pod(kubernetes_settings(), LAUNCH, 1),
    "a pod with everything": pod(kubernetes_settings(**EVERYTHING, priority_class="research"), LAUNCH, 3),
    "a TrainJob with little": trainjob(trainjob_settings(), LAUNCH, 1),
    "a TrainJob with everything": trainjob(trainjob_settings(**EVERYTHING), LAUNCH, 3),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid(name: str) -> None:
    assert fault_of(MANIFESTS[name]) is None


@pytest.mark.parametrize("name", ["a pod with everything", "a TrainJob with everything"])
def test_a_typo_in_any_field_is_found(name: str) -> None:
    """Every key that the API knows, at every depth, is misspelled once."""
    undetected = []
    for place in places(MANIFESTS[name]):
        broken = copy.deepcopy(MANIFESTS[name])
        parent: Any = broken
        for step in place[:-1]:
            parent = parent[step]
        parent[f"{place[-1]}x"] = parent.pop(place[-1])
        if place[:1] not in (("kind",), ("apiVersion",)) and fault_of(broken) is None:
            undetected.append(place)
    assert undetected == []


def places(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the keys are; names that users choose (labels, resources, selectors) are no fields."""
    free = ("labels", "annotations", "requests", "limits", "nodeSelector")
    if isinstance(node, list):
        return [place for number, entry in enumerate(node) for place in places(entry, (*at, number))]
    if not isinstance(node, dict) or (at and at[-1] in free):
        return []
    return [(*at, key) for key in node] + [place for key, value in node.items() for place in places(value, (*at, key))]


def container_of(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = manifest["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_pod_has_what_the_file_asks_for() -> None:
    manifest = MANIFESTS["a pod with everything"]
    spec, container = manifest["spec"], container_of(manifest)
    amounts = {"cpu": "16", "memory": "128Gi", "amd.com/gpu": "8"}
    assert container["resources"] == {"requests": amounts, "limits": amounts}
    assert container["image"] == "registry.example/bai-rocm:1.0"
    assert container["command"] == ["python", "-m", "bai_pipeline.jobs", LAUNCH.uri]
    assert spec["serviceAccountName"] == "bai-jobs"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["nodeSelector"] == {"example.com/gpu": "mi300"}
    assert spec["tolerations"] == [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["priorityClassName"] == "research"
    assert spec["activeDeadlineSeconds"] == 86400
    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] == 300
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    environment = {entry["name"]: entry for entry in container["env"]}
    assert environment["NCCL_DEBUG"]["value"] == "WARN"
    assert environment["BAI_STORE"]["value"] == "/store"
    assert environment["JUDGE_API_KEY"] == {
        "name": "JUDGE_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "judge", "key": "token"}},
    }


def test_volumes_are_mounted_where_the_file_says() -> None:
    manifest = MANIFESTS["a pod with everything"]
    volumes = {volume.pop("name"): volume for volume in copy.deepcopy(manifest["spec"]["volumes"])}
    mounts = {mount["mountPath"]: (volumes[mount["name"]], mount) for mount in container_of(manifest)["volumeMounts"]}
    assert {path: source for path, (source, _) in mounts.items()} == {
        "/store": {"persistentVolumeClaim": {"claimName": "bai-store"}},
        "/tmp": {"emptyDir": {}},
        "/brought": {"persistentVolumeClaim": {"claimName": "brought", "readOnly": True}},
        "/models": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        "/etc/nccl": {"configMap": {"name": "nccl"}},
        "/scratch": {"emptyDir": {"sizeLimit": "100Gi"}},
        "/dev/shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
    }
    assert mounts["/models"][1]["readOnly"]


def test_a_pod_with_gpus_has_shared_memory_of_its_own() -> None:
    manifest = pod(kubernetes_settings(gpus=2, memory="32Gi"), LAUNCH, 1)
    (shm,) = [volume for volume in manifest["spec"]["volumes"] if volume["name"] == "shm"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}


@pytest.mark.parametrize("job", [{}, EVERYTHING])
def test_a_pod_may_do_as_little_as_a_restricted_namespace_asks(job: dict[str, Any]) -> None:
    """The Pod Security Standard "restricted", and a root file system that cannot be written."""
    manifest = pod(kubernetes_settings(**job), LAUNCH, 1)
    assert manifest["spec"]["securityContext"]["runAsNonRoot"] is True
    assert manifest["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert container_of(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def test_a_trainjob_asks_for_nodes_and_gives_each_what_a_pod_has() -> None:
    spec = MANIFESTS["a TrainJob with everything"]["spec"]
    assert spec["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "ClusterTrainingRuntime",
        "name": "torch-distributed",
    }
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    as_pod = MANIFESTS["a pod with everything"]
    assert trainer["resourcesPerNode"] == container_of(as_pod)["resources"]
    assert trainer["env"] == container_of(as_pod)["env"]
    (patch,) = spec["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    node = job["template"]["spec"]["template"]["spec"]
    for field in ("volumes", "nodeSelector", "tolerations", "securityContext", "serviceAccountName"):
        assert node[field] == as_pod["spec"][field]
    assert node["containers"] == [
        {
            "name": "node",
            "volumeMounts": container_of(as_pod)["volumeMounts"],
            "securityContext": container_of(as_pod)["securityContext"],
        }
    ]
    assert spec["activeDeadlineSeconds"] == 86400


def test_names_say_job_store_and_attempt_and_are_the_same_again() -> None:
    settings = kubernetes_settings()
    other_store = Launch(LAUNCH.identity, LAUNCH.kind, LAUNCH.uri, LAUNCH.store, "s3://other", "run-2", {})
    again = Launch(LAUNCH.identity, LAUNCH.kind, LAUNCH.uri, LAUNCH.store, LAUNCH.location, "run-2", {})
    names = [launch.name(attempt, settings) for launch in (LAUNCH, other_store) for attempt in (1, 2)]
    assert len(set(names)) == 4
    assert again.name(1, settings) == LAUNCH.name(1, settings)
    assert all(name.startswith("bai-ppo-") and len(name) <= 40 for name in names)
