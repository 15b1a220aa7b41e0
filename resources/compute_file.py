"""The compute file: where jobs run and with what. It changes no result and no job's identity.

kind: local                       # the default without a file

kind: kubernetes
image: registry.example/bai-jobs:1.0
store_claim: bai-store
resources:
  default: {cpu: "2", memory: 8Gi}
  ppo: {cpu: "16", memory: 128Gi, gpus: 8}
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from bai_pipeline.deepspeed_file import read_deepspeed
from bai_pipeline.errors import ComputeError, StudyError
from bai_pipeline.settings import Settings
from bai_pipeline.yaml_lines import Location, load_with_lines

Seconds = Annotated[float, Field(gt=0.0)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTP]|[KMGTP]i)?$")]
"""An amount of a Kubernetes resource: "500m", "2", "8Gi"."""
Threads = Annotated[int, Field(ge=1)]
"""Threads of a job's arithmetic on CPUs: two jobs with one thread are faster than one with two. Another number can
change the last bits of what is trained on CPUs, so all who share a store keep the same."""
KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=63)]


SUPERVISED = ("pretrain", "finetune", "reward")
"""Kinds of job that train with supervision."""


class Spread(Settings):
    """How a job is spread over processes and memory."""

    ranks: Annotated[int, Field(ge=1)] = 1
    """Processes of a job, one a GPU."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    deepspeed: Path | dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's JSON (offloading, buckets, …), or a file of it: see deploy/deepspeed/."""

    @field_validator("deepspeed")
    @classmethod
    def _read(cls, value: Path | dict[str, Any]) -> dict[str, Any]:
        return read_deepspeed(value) if isinstance(value, Path) else value


class SupervisedExecution(Spread):
    """How the base, the SFT models and the reward model are trained; stage 0 is data parallelism without DeepSpeed.

    The router's loss (`aux_loss_coef`) is of each rank's own tokens, so with it another number of ranks trains another
    model: all who share a store keep the same.
    """


class PpoExecution(Spread):
    """How PPO is spread; the same for every PPO job."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Responses that a rank's model reads at once; None: its whole share of a mini-batch."""
    activation_checkpointing: bool = False
    frozen: Literal["plain", "zero3"] = "plain"
    """The reference model: whole on every rank, or spread over the ranks."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)


class _Jobs(Settings):
    """What every kind of compute says of jobs."""

    threads: Threads = 1
    supervised: SupervisedExecution = SupervisedExecution()
    ppo: PpoExecution = PpoExecution()

    def execution(self, kind: str) -> dict[str, Any]:
        """What the specification of a job of this kind carries of it (fields of `Execution`)."""
        spread = {"ppo": self.ppo, **dict.fromkeys(SUPERVISED, self.supervised)}.get(kind)
        return {} if spread is None else spread.model_dump()


class LocalSettings(_Jobs):
    """Jobs as subprocesses on this machine."""

    kind: Literal["local"] = "local"
    command: Annotated[tuple[str, ...], Field(min_length=1)] = (sys.executable, "-m", "bai_pipeline.jobs")
    """What a job is started with (another Python, a wrapper such as nice); the URI of its specification is appended."""
    preload: bool = False
    """Fork jobs from a process that has torch imported, one for each Dagster run: saves some seconds a job."""
    env: dict[str, str] = Field(default_factory=dict)
    """Added to the job's environment."""
    termination_grace: Seconds = 10.0
    """Seconds between SIGTERM and SIGKILL when a run is cancelled."""


class PodResources(Settings):
    """What one pod asks for; requests and limits are the same, so a pod is never throttled or evicted first."""

    cpu: Quantity
    memory: Quantity
    gpus: Annotated[int, Field(ge=0)] = 0


class KubernetesSettings(_Jobs):
    """Jobs as pods, one a job."""

    kind: Literal["kubernetes"]
    image: Annotated[str, Field(min_length=1)]
    """An image with bai_pipeline installed."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] = ("python", "-m", "bai_pipeline.jobs")
    """What the pod runs; the URI of the job's specification is appended."""
    namespace: KubernetesName = "default"
    kubeconfig: Path | None = None
    """None: the service account when inside a cluster, else the user's default kubeconfig."""
    kube_context: str | None = None
    service_account: KubernetesName | None = None
    store_claim: KubernetesName
    """Volume claim that holds the store, mounted in the pod at the store's root."""
    claims: dict[KubernetesName, str] = Field(default_factory=dict)
    """More claims (checkpoints brought by path): name -> where to mount it, read-only."""
    resources: dict[str, PodResources] = Field(default_factory=dict)
    """Kind of job -> what its pod asks for; `default` serves the others (without it: 1 CPU and 4 GiB)."""
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    env: dict[str, str] = Field(default_factory=dict)
    termination_grace: Annotated[int, Field(ge=1)] = 300
    """Seconds between SIGTERM and SIGKILL when a pod is evicted or deleted: time for PPO to write a checkpoint."""
    poll_interval: Seconds = 5.0
    """Seconds between two looks at the pod."""
    pod_wait_timeout: Seconds = 14 * 24 * 3600.0
    """Seconds that a pod may run: longer than the longest PPO run."""
    result_timeout: Annotated[float, Field(ge=0.0)] = 90.0
    """Seconds until a finished pod's result must be visible here: a network file system may remember its absence."""

    def resources_of(self, kind: str) -> PodResources:
        return self.resources.get(kind) or self.resources.get("default") or PodResources(cpu="1", memory="4Gi")


ComputeSettings = Annotated[LocalSettings | KubernetesSettings, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[LocalSettings | KubernetesSettings] = TypeAdapter(ComputeSettings)


def load_compute(path: Path | None) -> LocalSettings | KubernetesSettings:
    """Read a compute file; None is `local` with its defaults.

    Raises:
        ComputeError: every fault of the file at once, each with its line.
    """
    if path is None:
        return LocalSettings()
    try:
        raw, places = load_with_lines(path)
    except StudyError as error:
        raise ComputeError(str(error).replace("the study file", "the compute file")) from error
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as error:
        faults = [_fault(e["loc"], e["msg"], e["type"], places, path) for e in error.errors()]
        raise ComputeError(f"{path} is not a valid compute file:\n  " + "\n  ".join(faults)) from error


def _fault(at: Location, message: str, kind: str, places: Mapping[Location, str], path: Path) -> str:
    field = at[1:] if at[:1] in (("local",), ("kubernetes",)) else at
    place = next((places[field[:n]] for n in range(len(field), 0, -1) if field[:n] in places), str(path))
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return f"{places.get(('kind',), path)}: kind: must be local or kubernetes"
    if kind == "extra_forbidden":
        message = "unknown key"
    return f"{place}: {'.'.join(map(str, field))}: {message}"
