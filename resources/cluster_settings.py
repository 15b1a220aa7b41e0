"""Settings of the computes `kubernetes` and `trainjob`: what pods ask for, and how long what is waited for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from bai_pipeline.jobs.runner import KINDS
from bai_pipeline.settings import Settings
from resources.job_settings import SPREAD, JobsSettings, Seconds

DEFAULT = "default"


def _quantity(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|[kMGTP]|[KMGTP]i)?", text):
        raise ValueError(f"expected an amount such as 500m, 2 or 8Gi, got {text!r}")
    return text


def _kind_of_job(name: str) -> str:
    if name != DEFAULT and name not in KINDS:
        raise ValueError(f"unknown kind of job; known are {DEFAULT}, {', '.join(KINDS)}")
    return name


Quantity = Annotated[str, AfterValidator(_quantity)]
"""An amount of a Kubernetes resource: "500m", "2", "8Gi"."""
KindOfJob = Annotated[str, AfterValidator(_kind_of_job)]
"""One of `bai_pipeline.jobs.runner.KINDS`, or `default`."""
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]
VolumeName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=50)]
QualifiedName = Annotated[
    str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$", max_length=316)
]
"""A name with an optional domain, as labels and extended resources have it."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ContainerPath = Annotated[str, Field(pattern=r"^/[^:]*$")]
"""An absolute path in a container."""


class SecretKey(Settings):
    """A value that stays in the cluster: only its place is known here."""

    secret: KubernetesName
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


class Toleration(Settings):
    """Kubernetes' own, field by field."""

    key: QualifiedName | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(ge=0)] | None = None


class Volume(Settings):
    """One more volume of a pod: a claim, a config map, memory, or space on the node's disk."""

    mount: ContainerPath
    claim: KubernetesName | None = None
    config_map: KubernetesName | None = None
    memory: Quantity | None = None
    """A file system in memory with this limit; at /dev/shm it is what NCCL and data loaders share."""
    disk: Quantity | None = None
    """Empty space on the node's disk with this limit, gone with the pod."""
    read_only: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [name for name in ("claim", "config_map", "memory", "disk") if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"needs exactly one of claim, config_map, memory, disk; has {' and '.join(named) or 'none'}"
            )
        return self


class Security(Settings):
    """Whom a container runs as. It is never root, gains no privilege, and writes only to its volumes and /tmp."""

    user: Annotated[int, Field(ge=1)] | None = None
    """None: the image's own user, who must not be root."""
    group: Annotated[int, Field(ge=1)] | None = None
    fs_group: Annotated[int, Field(ge=1)] | None = None
    """Group that owns the files of its volumes."""
    seccomp: Literal["RuntimeDefault", "Unconfined"] = "RuntimeDefault"
    """RuntimeDefault may forbid the user namespaces that bubblewrap needs for benchmarks with programs."""


class PodSettings(Settings):
    """What the pod of a kind of job asks for; requests and limits are the same, so it is never throttled or evicted
    first. What a kind does not say, `default` says for it."""

    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    gpus: Annotated[int, Field(ge=0)] = 0
    gpu_resource: QualifiedName = "nvidia.com/gpu"
    image: Annotated[str, Field(min_length=1)] | None = None
    """None: the file's."""
    node_selector: dict[QualifiedName, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    volumes: dict[VolumeName, Volume] = Field(default_factory=dict)
    priority_class: KubernetesName | None = None
    queue: KubernetesName | None = None
    """Kueue's local queue, which holds the job until there is room."""
    deadline: Annotated[int, Field(ge=1)] | None = None
    """Seconds after which the cluster ends the job; what it saved stays."""
    env: dict[Variable, str] = Field(default_factory=dict)
    """Beside the file's `env`."""
    secrets: dict[Variable, SecretKey] = Field(default_factory=dict)
    """Environment variables from secrets."""
    security: Security = Security()


class NodeSettings(PodSettings):
    """The same of each node of a job that is spread over several."""

    nodes: Annotated[int, Field(ge=1)] = 1
    """More than one: a TrainJob; one: a pod."""
    ranks_per_node: Annotated[int, Field(ge=1)] | None = None
    """None: one a GPU, or one where there are none."""
    runtime: KubernetesName = "torch-distributed"
    """What Kubeflow Trainer makes the nodes of: its container `node` runs our command and gets PET_* variables."""
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"

    @property
    def per_node(self) -> int:
        return self.ranks_per_node or self.gpus or 1


class ClusterSettings(JobsSettings):
    """What both computes on a cluster say."""

    image: Annotated[str, Field(min_length=1)]
    """An image with bai_pipeline installed."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] = ("python", "-m", "bai_pipeline.jobs")
    """What a pod runs; the URI of the job's specification is appended."""
    namespace: KubernetesName = DEFAULT
    kubeconfig: Path | None = None
    """None: the service account when inside a cluster, else the user's default kubeconfig."""
    kube_context: str | None = None
    service_account: KubernetesName | None = None
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    store_claim: KubernetesName
    """Volume claim that holds the store, mounted in the pod at the store's root."""
    claims: dict[KubernetesName, ContainerPath] = Field(default_factory=dict)
    """More claims for every job (checkpoints brought by path): name -> where to mount it, read-only."""
    jobs: Mapping[KindOfJob, PodSettings] = Field(default_factory=dict)
    """Kind of job -> what its pod asks for."""
    termination_grace: Annotated[int, Field(ge=1)] = 300
    """Seconds between SIGTERM and SIGKILL when a pod is evicted or deleted: time for PPO to write a checkpoint."""
    poll_interval: Seconds = 5.0
    """Seconds between two looks at a pod and its log."""
    schedule_timeout: Seconds = 24 * 3600.0
    """Seconds that a pod may wait for a node, for room in the namespace's quota, or for its volumes and its image to
    arrive; a Kueue queue has no limit."""
    start_timeout: Seconds = 600.0
    """Seconds that a pod may be unable to start (its image cannot be pulled, a secret is missing)."""
    node_timeout: Seconds = 300.0
    """Seconds that a node may be silent before the job is started elsewhere."""
    api_timeout: Seconds = 600.0
    """Seconds that the API server may refuse to answer; the pod goes on meanwhile, and afterwards."""
    request_timeout: Seconds = 30.0
    """Seconds that one request may take."""
    disruptions: Annotated[int, Field(ge=0)] = 5
    """How often a job that the cluster ended (eviction, preemption, a lost node) is started again by itself."""
    result_timeout: Annotated[float, Field(ge=0.0)] = 90.0
    """Seconds until a finished pod's result must be visible here: a network file system may remember its absence."""

    @model_validator(mode="after")
    def _ranks_fit(self) -> Self:
        if faults := [fault for kind in SPREAD if (fault := self._fault_of_ranks(kind)) is not None]:
            raise ValueError("\n".join(dict.fromkeys(faults)))
        return self

    def job(self, kind: str) -> PodSettings:
        """What a kind of job asks for, with what `default` says of the rest."""
        return _inherit(self.jobs.get(DEFAULT, PodSettings()), self.jobs.get(kind))

    def gpus_of(self, kind: str) -> int:
        """GPUs that a job of this kind holds, on all its nodes."""
        return self.job(kind).gpus

    def _fault_of_ranks(self, kind: str) -> str | None:
        spread = self.spread(kind)
        gpus = self.job(kind).gpus
        if spread is None or not gpus or spread.ranks <= gpus:
            return None
        section = "ppo" if kind == "ppo" else "supervised"
        return f"{section}.ranks: {spread.ranks} ranks need a GPU each, but the pod of {kind} has {gpus}"


Pod = TypeVar("Pod", bound=PodSettings)


def _inherit(base: Pod, own: Pod | None) -> Pod:
    """`own`, with what it does not say from `base`."""
    return base if own is None else base.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


class KubernetesSettings(ClusterSettings):
    """Jobs as pods, one a job."""

    kind: Literal["kubernetes"]


class TrainJobSettings(ClusterSettings):
    """Jobs as pods; PPO and supervised training, where they have several nodes, as Kubeflow TrainJobs."""

    kind: Literal["trainjob"]
    jobs: Mapping[KindOfJob, NodeSettings] = Field(default_factory=dict)

    def job(self, kind: str) -> NodeSettings:
        return _inherit(self.jobs.get(DEFAULT, NodeSettings()), self.jobs.get(kind))

    def gpus_of(self, kind: str) -> int:
        return self.job(kind).gpus * self.job(kind).nodes

    @model_validator(mode="after")
    def _only_training_has_nodes(self) -> Self:
        faults = [
            f"jobs.{kind}.nodes: {kind} jobs run on one node; {', '.join(SPREAD)} can have several"
            for kind in self.jobs
            if kind not in SPREAD and self.jobs[kind].nodes > 1
        ]
        faults += [
            f"jobs.{kind}.priority_class: a TrainJob takes it from its training runtime; leave it out"
            for kind in SPREAD
            if self.job(kind).nodes > 1 and self.job(kind).priority_class is not None
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _fault_of_ranks(self, kind: str) -> str | None:
        spread, node = self.spread(kind), self.job(kind)
        if spread is None or node.nodes == 1:
            return super()._fault_of_ranks(kind)
        section = "ppo" if kind == "ppo" else "supervised"
        if spread.ranks != node.nodes * node.per_node:
            return (
                f"{section}.ranks: {spread.ranks} ranks, but {kind} has {node.nodes} nodes with {node.per_node} ranks "
                f"each ({node.nodes * node.per_node})"
            )
        if node.gpus and node.per_node > node.gpus:
            return f"jobs.{kind}.ranks_per_node: {node.per_node} ranks need a GPU each, but a node has {node.gpus}"
        return None
