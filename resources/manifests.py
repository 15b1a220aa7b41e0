"""Manifests of pods and TrainJobs: pure functions of the compute file and a job."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resources.cluster_settings import ClusterSettings, NodeSettings, PodSettings, Security, TrainJobSettings, Volume
from resources.pod_status import CONTAINER, NODE_CONTAINER

Json = dict[str, Any]
JOB_LABEL = "bai-pipeline/job"
RUN_LABEL = "bai-pipeline/run"
KIND_LABEL = "bai-pipeline/kind"
STORE_LABEL = "bai-pipeline/store"
ATTEMPT_LABEL = "bai-pipeline/attempt"
SPEC_ANNOTATION = "bai-pipeline/spec"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PATCHES_BY = "bai-pipeline.github.io/compute"
"""Who patches a TrainJob's runtime, by the name that the API asks for."""


@dataclass(frozen=True)
class Launch:
    """A job that is to run on a cluster: which one, of which store, for which run."""

    identity: str
    kind: str
    uri: str
    """Of its specification, in the store."""
    store: Path
    """Where the claim is mounted."""
    location: str
    """Of the store."""
    run: str
    environment: Mapping[str, str]

    def name(self, attempt: int, settings: ClusterSettings) -> str:
        """The same for the same job, store and attempt: a second one of it cannot be made by mistake."""
        digest = hashlib.sha256(f"{self.store_label(settings)}/{self.identity}".encode()).hexdigest()[:12]
        return f"bai-{self.kind.replace('_', '-')}-{digest}-{attempt}"

    def own(self, settings: ClusterSettings) -> dict[str, str]:
        """Labels that find the job's workloads, of every attempt."""
        return {JOB_LABEL: self.identity, STORE_LABEL: self.store_label(settings)}

    def store_label(self, settings: ClusterSettings) -> str:
        """Two stores may share a namespace, and have the same job to do."""
        return hashlib.sha256(f"{settings.store_claim}:{self.location}".encode()).hexdigest()[:16]

    def labels(self, attempt: int, settings: ClusterSettings) -> dict[str, str]:
        return {
            **self.own(settings),
            RUN_LABEL: self.run,
            KIND_LABEL: self.kind,
            ATTEMPT_LABEL: str(attempt),
            "app.kubernetes.io/managed-by": "bai-pipeline",
        }


def pod(settings: ClusterSettings, launch: Launch, attempt: int) -> Json:
    """The pod of a job."""
    asked = settings.job(launch.kind)
    spec: Json = {
        "containers": [
            {
                "name": CONTAINER,
                "image": asked.image or settings.image,
                "command": [*settings.command, launch.uri],
                "env": _environment(asked, launch),
                "resources": _resources(asked),
                "volumeMounts": _mounts(settings, asked, launch.store),
                "securityContext": _container_security(),
            }
        ],
        "volumes": _volumes(settings, asked),
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.termination_grace,
        "securityContext": _pod_security(asked.security),
        **_placement(settings, asked),
    }
    if asked.deadline is not None:
        spec["activeDeadlineSeconds"] = asked.deadline
    if asked.priority_class is not None:
        spec["priorityClassName"] = asked.priority_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(settings, asked, launch, attempt),
        "spec": spec,
    }


def trainjob(settings: TrainJobSettings, launch: Launch, attempt: int) -> Json:
    """The TrainJob of a job on several nodes; its runtime sets the variables that `bai_pipeline.jobs.ranks` reads."""
    asked = settings.job(launch.kind)
    labels = launch.labels(attempt, settings)
    patched = {
        "name": NODE_CONTAINER,
        "volumeMounts": _mounts(settings, asked, launch.store),
        "securityContext": _container_security(),
    }
    pod_patch = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [patched],
            "volumes": _volumes(settings, asked),
            "terminationGracePeriodSeconds": settings.termination_grace,
            "securityContext": _pod_security(asked.security),
            **_placement(settings, asked),
        },
    }
    spec: Json = {
        "runtimeRef": {
            "apiGroup": "trainer.kubeflow.org",
            "kind": asked.runtime_kind,
            "name": asked.runtime,
        },
        "trainer": {
            "image": asked.image or settings.image,
            "command": [*settings.command, launch.uri],
            "env": _environment(asked, launch),
            "numNodes": asked.nodes,
            "numProcPerNode": asked.per_node,
            "resourcesPerNode": _resources(asked),
        },
        "runtimePatches": [
            {
                "manager": PATCHES_BY,
                "trainingRuntimeSpec": {
                    "template": {
                        "spec": {
                            "replicatedJobs": [{"name": NODE_CONTAINER, "template": {"spec": {"template": pod_patch}}}]
                        }
                    }
                },
            }
        ],
    }
    if asked.deadline is not None:
        spec["activeDeadlineSeconds"] = asked.deadline
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(settings, asked, launch, attempt),
        "spec": spec,
    }


def is_spread(settings: ClusterSettings, kind: str) -> bool:
    """Whether a kind of job has several nodes."""
    asked = settings.job(kind)
    return isinstance(asked, NodeSettings) and asked.nodes > 1


def _metadata(settings: ClusterSettings, asked: PodSettings, launch: Launch, attempt: int) -> Json:
    queue = {} if asked.queue is None else {QUEUE_LABEL: asked.queue}
    return {
        "name": launch.name(attempt, settings),
        "namespace": settings.namespace,
        "labels": {**launch.labels(attempt, settings), **queue},
        "annotations": {SPEC_ANNOTATION: launch.uri},
    }


def _environment(asked: PodSettings, launch: Launch) -> list[Json]:
    """HOME is where a container may write; what the compute file says comes last and wins."""
    values = {"HOME": "/tmp", **launch.environment, **asked.env}
    plain: list[Json] = [{"name": name, "value": value} for name, value in values.items() if name not in asked.secrets]
    secret: list[Json] = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": place.secret, "key": place.key}}}
        for name, place in asked.secrets.items()
    ]
    return plain + secret


def _resources(asked: PodSettings) -> Json:
    amounts = {"cpu": asked.cpu, "memory": asked.memory}
    if asked.gpus:
        amounts[asked.gpu_resource] = str(asked.gpus)
    return {"requests": amounts, "limits": dict(amounts)}


def _all_volumes(settings: ClusterSettings, asked: PodSettings) -> dict[str, Volume]:
    """What is mounted beside the store and /tmp. A pod's own /dev/shm is 64 MiB, too little for ranks on GPUs."""
    claims = {
        f"claim-{number}": Volume(claim=claim, mount=path, read_only=True)
        for number, (claim, path) in enumerate(settings.claims.items())
    }
    has_shm = any(volume.mount == "/dev/shm" for volume in asked.volumes.values())
    shm = {"shm": Volume(memory=asked.memory, mount="/dev/shm")} if asked.gpus and not has_shm else {}
    return {**claims, **shm, **{f"extra-{name}": volume for name, volume in asked.volumes.items()}}


def _volumes(settings: ClusterSettings, asked: PodSettings) -> list[Json]:
    own: list[Json] = [
        {"name": "store", "persistentVolumeClaim": {"claimName": settings.store_claim}},
        {"name": "tmp", "emptyDir": {}},
    ]
    return own + [{"name": name, **_source(volume)} for name, volume in _all_volumes(settings, asked).items()]


def _source(volume: Volume) -> Json:
    if volume.claim is not None:
        read_only = {"readOnly": True} if volume.read_only else {}
        return {"persistentVolumeClaim": {"claimName": volume.claim, **read_only}}
    if volume.config_map is not None:
        return {"configMap": {"name": volume.config_map}}
    if volume.memory is not None:
        return {"emptyDir": {"medium": "Memory", "sizeLimit": volume.memory}}
    return {"emptyDir": {"sizeLimit": volume.disk}}


def _mounts(settings: ClusterSettings, asked: PodSettings, store: Path) -> list[Json]:
    own: list[Json] = [{"name": "store", "mountPath": str(store)}, {"name": "tmp", "mountPath": "/tmp"}]
    more = [
        {"name": name, "mountPath": volume.mount, **({"readOnly": True} if volume.read_only else {})}
        for name, volume in _all_volumes(settings, asked).items()
    ]
    return own + more


def _container_security() -> Json:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }


def _pod_security(security: Security) -> Json:
    named = {"runAsUser": security.user, "runAsGroup": security.group, "fsGroup": security.fs_group}
    return {
        "runAsNonRoot": True,
        "seccompProfile": {"type": security.seccomp},
        **{name: number for name, number in named.items() if number is not None},
    }


def _placement(settings: ClusterSettings, asked: PodSettings) -> Json:
    """Where a pod may run, and as whom it pulls and asks."""
    placement: Json = {}
    if settings.service_account is not None:
        placement["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        placement["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if asked.node_selector:
        placement["nodeSelector"] = dict(asked.node_selector)
    if asked.tolerations:
        placement["tolerations"] = [toleration.model_dump(exclude_none=True) for toleration in asked.tolerations]
    return placement
