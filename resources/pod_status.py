"""What the status of a pod or a TrainJob means for the job in it. Pure: a manifest in, a verdict out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bai_pipeline.jobs.runner import EXIT_INTERRUPTED, EXIT_REFUSED

Json = Mapping[str, Any]
CONTAINER = "job"
"""The container of a pod that runs the job."""


class Stage(Enum):
    """How far a workload is."""

    QUEUED = "queued"
    """Kueue or a scheduling gate holds it: it waits as long as that takes."""
    UNSCHEDULED = "unscheduled"
    """No node has room for it."""
    STARTING = "starting"
    BLOCKED = "blocked"
    """Its container cannot start: image, secret, config map."""
    RUNNING = "running"
    LOST = "lost"
    """Its node is silent."""
    COMPLETED = "completed"
    REFUSED = "refused"
    """The job refused its input (exit code 3)."""
    CRASHED = "crashed"
    BROKEN = "broken"
    """It cannot end well until somebody changes the compute file, the image or the cluster."""
    DISRUPTED = "disrupted"
    """The cluster ended it, for reasons of its own; another pod goes on from the last checkpoint."""

    @property
    def is_end(self) -> bool:
        return self in (Stage.COMPLETED, Stage.REFUSED, Stage.CRASHED, Stage.BROKEN, Stage.DISRUPTED)


@dataclass(frozen=True)
class Verdict:
    """A stage and what the cluster says of it."""

    stage: Stage
    said: str = ""
    exit_code: int | None = None


_UNREACHABLE_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidationFailed"})
_CANNOT_START = frozenset({"CreateContainerConfigError", "CreateContainerError", "CreatePodSandboxError"})
_NEVER_STARTS = frozenset({"InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_COMMAND_NOT_RUN = frozenset({"StartError", "ContainerCannotRun"})
_DISRUPTIONS = frozenset(
    {
        "Evicted",
        "NodeAffinity",
        "NodeLost",
        "NodeShutdown",
        "Preempting",
        "Shutdown",
        "Terminated",
        "UnexpectedAdmissionError",
    }
)
"""Reasons of a pod that a kubelet ended or would not take; the last one: a GPU that was promised was not there."""


def judge_pod(pod: Json, container: str = CONTAINER) -> Verdict:
    """What a pod's status says."""
    status = pod.get("status", {})
    phase, reason = status.get("phase", "Pending"), status.get("reason", "")
    ended = _state(status, container).get("terminated")
    disruption = _condition(status, "DisruptionTarget")
    if phase == "Unknown" or (reason == "NodeLost" and phase != "Failed"):
        return Verdict(Stage.LOST, _joined(reason or "NodeLost", status.get("message")))
    if phase == "Succeeded":
        return Verdict(Stage.COMPLETED, exit_code=0)
    if phase == "Failed" or ended is not None:
        return _judge_end(ended or {}, reason, status.get("message"), disruption)
    if phase == "Pending":
        return _judge_pending(status, container)
    return Verdict(Stage.RUNNING)


def _judge_end(ended: Json, reason: str, message: str | None, disruption: Json | None) -> Verdict:
    code = ended.get("exitCode")
    if code == 0:
        return Verdict(Stage.COMPLETED, exit_code=0)
    if code == EXIT_REFUSED:
        return Verdict(Stage.REFUSED, exit_code=code)
    if disruption is not None:
        said = _joined(disruption.get("reason", "DisruptionTarget"), disruption.get("message"))
        return Verdict(Stage.DISRUPTED, said, code)
    if reason in _DISRUPTIONS:
        return Verdict(Stage.DISRUPTED, _joined(reason, message), code)
    if reason:  # DeadlineExceeded, and what a kubelet will not run at all (OutOfcpu, NodeName, …)
        return Verdict(Stage.BROKEN, _joined(reason, message), code)
    why = ended.get("reason", "")
    if why == "OOMKilled" or why in _COMMAND_NOT_RUN:
        return Verdict(Stage.BROKEN, _joined(why, ended.get("message")), code)
    if code == EXIT_INTERRUPTED:
        return Verdict(Stage.DISRUPTED, "it was told to end and saved its state", code)
    return Verdict(Stage.CRASHED, _joined(why if why != "Error" else "", ended.get("message")), code)


def _judge_pending(status: Json, container: str) -> Verdict:
    scheduled = _condition(status, "PodScheduled", wanted="False")
    if scheduled is not None:
        stage = Stage.QUEUED if scheduled.get("reason") == "SchedulingGated" else Stage.UNSCHEDULED
        return Verdict(stage, _joined(scheduled.get("reason", ""), scheduled.get("message")))
    waiting = _state(status, container).get("waiting") or {}
    reason = waiting.get("reason", "")
    said = _joined(reason, waiting.get("message"))
    if reason in _NEVER_STARTS:
        return Verdict(Stage.BROKEN, said)
    if reason in _UNREACHABLE_IMAGE or reason in _CANNOT_START:
        return Verdict(Stage.BLOCKED, said)
    return Verdict(Stage.STARTING, said)


def judge_trainjob(job: Json, pods: Sequence[Json], nodes: int) -> Verdict:
    """What a TrainJob and the pods of its nodes say.

    One node that ended badly, or is silent, is the end of the job on all of them. The first node says how the job ended
    if it ended by itself: the ranks on others only lose their connection then.
    """
    status = job.get("status", {})
    if _condition(status, "Complete") is not None:
        return Verdict(Stage.COMPLETED, exit_code=0)
    verdicts = [judge_pod(pod, NODE_CONTAINER) for pod in sorted(pods, key=node_index)]
    first = [v for pod, v in zip(sorted(pods, key=node_index), verdicts, strict=True) if node_index(pod) == 0]
    bad = [v for v in verdicts if v.stage.is_end and v.stage is not Stage.COMPLETED]
    failed = _condition(status, "Failed")
    if failed is not None and failed.get("reason") in ("DeadlineExceeded", "TrainingRuntimeNotSupported"):
        return Verdict(Stage.BROKEN, _joined(failed["reason"], failed.get("message")))
    if bad:
        return next((v for v in first if v.stage in (Stage.REFUSED, Stage.BROKEN)), None) or _worst(bad)
    if failed is not None:
        return Verdict(Stage.CRASHED, _joined(failed.get("reason", ""), failed.get("message")))
    lost = [v for v in verdicts if v.stage is Stage.LOST]
    if lost:
        return lost[0]
    suspended = _condition(status, "Suspended")
    if suspended is not None:
        return Verdict(Stage.QUEUED, _joined(suspended.get("reason", ""), suspended.get("message")))
    if len(pods) < nodes:
        return Verdict(Stage.STARTING, f"{len(pods)} of {nodes} nodes have a pod")
    order = (Stage.QUEUED, Stage.UNSCHEDULED, Stage.BLOCKED, Stage.STARTING)
    return next((v for stage in order for v in verdicts if v.stage is stage), Verdict(Stage.RUNNING))


NODE_CONTAINER = "node"
"""The container of a TrainJob's pod that runs the job; the name is Kubeflow Trainer's."""
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"


def node_index(pod: Json) -> int:
    """Which node of a TrainJob a pod is."""
    metadata = pod.get("metadata", {})
    found = metadata.get("labels", {}).get(INDEX_LABEL) or metadata.get("annotations", {}).get(INDEX_LABEL)
    return int(found or 0)


def _worst(bad: Sequence[Verdict]) -> Verdict:
    """What explains the end of a job best: the cluster's reasons before crashes, which may follow from them."""
    order = (Stage.BROKEN, Stage.DISRUPTED, Stage.REFUSED, Stage.CRASHED)
    return min(bad, key=lambda verdict: order.index(verdict.stage))


def _state(status: Json, container: str) -> Json:
    statuses = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    named = [entry for entry in statuses if entry.get("name") == container]
    state: Json = (named or statuses or [{}])[0].get("state", {})
    return state


def _condition(status: Json, kind: str, wanted: str = "True") -> Json | None:
    conditions: Sequence[Json] = status.get("conditions") or ()
    return next((c for c in conditions if c.get("type") == kind and c.get("status") == wanted), None)


def _joined(reason: str, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)
