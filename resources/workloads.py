"""What runs a job on a cluster: a pod, or a TrainJob with a pod on each of its nodes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resources.cluster_api import PODS, TRAINJOBS, Cluster, Resource
from resources.manifests import ATTEMPT_LABEL, SPEC_ANNOTATION
from resources.pod_log import LogCopy
from resources.pod_status import (
    CONTAINER,
    JOBSET_LABEL,
    NODE_CONTAINER,
    Stage,
    Verdict,
    judge_pod,
    judge_trainjob,
    node_index,
)

Json = dict[str, Any]
Accept = Callable[[str], bool]


class Workload(ABC):
    """One attempt at a job that is, or was, in the cluster."""

    resource: Resource

    def __init__(self, cluster: Cluster, manifest: Json, log: Path, accept: Accept) -> None:
        """
        Args:
            manifest: as the API server gave it.
            log: the job's log file; those of further nodes lie beside it.
            accept: takes Pipes messages out of the log.
        """
        self._cluster, self._log, self._accept = cluster, log, accept
        self._manifest = manifest
        self._copies: dict[str, LogCopy] = {}
        self.name = str(manifest["metadata"]["name"])
        self.uid = str(manifest["metadata"].get("uid", ""))

    @property
    def uri(self) -> str:
        """Of the specification that it runs."""
        return str(self._manifest["metadata"].get("annotations", {}).get(SPEC_ANNOTATION, ""))

    @property
    def attempt(self) -> int:
        return int(self._manifest["metadata"]["labels"].get(ATTEMPT_LABEL, 0))

    @property
    def is_leaving(self) -> bool:
        """Whether somebody has asked for its end."""
        return "deletionTimestamp" in self._manifest["metadata"]

    @abstractmethod
    def look(self) -> Verdict:
        """How far it is, asked of the cluster. A workload that is gone was disrupted."""

    @abstractmethod
    def copy_logs(self, *, whole: bool = False) -> None:
        """Copy what its containers have written since the last time."""

    def tail(self) -> list[str]:
        """The last lines of its log."""
        first = next(iter(self._copies.values()), None)
        return list(first.tail) if first is not None else []

    def warnings(self) -> list[str]:
        """What the cluster says of it."""
        return self._cluster.warnings(self.name)

    def delete(self) -> None:
        """Ask for its end: SIGTERM now, SIGKILL after its grace."""
        self._cluster.delete(self.resource, self.name)

    def is_gone(self) -> bool:
        found = self._cluster.get(self.resource, self.name)
        return found is None or found["metadata"].get("uid") != self.uid

    def _refresh(self) -> bool:
        """Ask for its manifest again; False: it is gone."""
        found = self._cluster.get(self.resource, self.name)
        if found is None or found["metadata"].get("uid", "") != self.uid:
            return False
        self._manifest = found
        return True

    def _copy(self, pod: Json, container: str, file: Path, accept: Accept, *, whole: bool) -> LogCopy:
        name, uid = pod["metadata"]["name"], pod["metadata"].get("uid", "")
        if uid not in self._copies:
            self._copies[uid] = LogCopy(self._cluster, name, uid, container, file, accept)
        self._copies[uid].catch_up(whole=whole)
        return self._copies[uid]


def _why_gone(last: Json) -> str:
    """Why an object was deleted, as far as its last status told."""
    conditions = last.get("status", {}).get("conditions") or ()
    for condition in conditions:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return f"{condition.get('reason', '')}: {condition.get('message', '')}"
    return "it was deleted"


class PodWorkload(Workload):
    """A job in one pod."""

    resource = PODS

    def look(self) -> Verdict:
        if not self._refresh():
            return Verdict(Stage.DISRUPTED, _why_gone(self._manifest))
        return judge_pod(self._manifest)

    def copy_logs(self, *, whole: bool = False) -> None:
        self._copy(self._manifest, CONTAINER, self._log, self._accept, whole=whole)


class TrainJobWorkload(Workload):
    """A job on several nodes; the first one's pod is the one that speaks."""

    resource = TRAINJOBS

    def __init__(self, cluster: Cluster, manifest: Json, log: Path, accept: Accept, *, settle: float) -> None:
        """
        Args:
            settle: seconds that the first node has to say why it ended, after another one has crashed.
        """
        super().__init__(cluster, manifest, log, accept)
        self._settle = settle
        self._crashed_at: float | None = None
        self._pods: list[Json] = []
        self._were_complete = False
        self._verdict = Verdict(Stage.STARTING)

    @property
    def nodes(self) -> int:
        return int(self._manifest["spec"]["trainer"].get("numNodes", 1))

    def look(self) -> Verdict:
        if not self._refresh():
            return Verdict(Stage.DISRUPTED, _why_gone(self._manifest))
        found = sorted(self._cluster.find(PODS, labels={JOBSET_LABEL: self.name}), key=node_index)
        verdict = judge_trainjob(self._manifest, found, self.nodes)
        missing = sorted(set(range(self.nodes)) - {node_index(pod) for pod in found})
        unexplained = not verdict.stage.is_end or (verdict.stage is Stage.CRASHED and verdict.exit_code is None)
        if self._were_complete and missing and unexplained:
            verdict = Verdict(Stage.DISRUPTED, f"the pod of node {missing[0]} was deleted")
        self._were_complete = self._were_complete or len(found) == self.nodes
        self._pods = found or self._pods
        self._verdict = self._settled(verdict, found)
        return self._verdict

    def _settled(self, verdict: Verdict, pods: list[Json]) -> Verdict:
        """A crash, once the first node has ended or had its time to."""
        first_runs = any(node_index(pod) == 0 and not judge_pod(pod, NODE_CONTAINER).stage.is_end for pod in pods)
        if verdict.stage is not Stage.CRASHED or not first_runs:
            return verdict
        self._crashed_at = self._crashed_at or time.monotonic()
        return verdict if time.monotonic() - self._crashed_at > self._settle else Verdict(Stage.RUNNING)

    def copy_logs(self, *, whole: bool = False) -> None:
        for pod in self._pods:
            node = node_index(pod)
            file = self._log if node == 0 else self._log.with_name(f"log-node-{node}.txt")
            self._copy(pod, NODE_CONTAINER, file, self._accept if node == 0 else _takes_nothing, whole=whole)

    def tail(self) -> list[str]:
        """Of the node that the verdict is about, else of the first."""
        ended_so = [pod for pod in self._pods if judge_pod(pod, NODE_CONTAINER) == self._verdict]
        for pod in (ended_so or self._pods)[:1]:
            copy = self._copies.get(pod["metadata"].get("uid", ""))
            return [] if copy is None else list(copy.tail)
        return []

    def warnings(self) -> list[str]:
        pods = [line for pod in self._pods for line in self._cluster.warnings(pod["metadata"]["name"])]
        return [*super().warnings(), *pods]


def _takes_nothing(line: str) -> bool:
    return False
