"""TrainJobs of the stand-in: one pod a node, with the variables that Kubeflow Trainer's torch runtime sets."""

import copy
import socket
from collections.abc import Sequence
from typing import Any

from tests.kubernetes.stand_in.pods import Pod, now

Json = dict[str, Any]
INDEX = "batch.kubernetes.io/job-completion-index"
JOBSET = "jobset.sigs.k8s.io/jobset-name"


class TrainJob:
    """A TrainJob: what was asked for, and the pods of its nodes by their number.

    Like a runtime with `backoffLimit: 0`, it has failed when one of its pods has.
    """

    def __init__(self, body: Json) -> None:
        self.body = body
        self.pods: dict[int, Pod] = {}
        self.failed: Json | None = None
        self.suspended: Json | None = None

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def nodes(self) -> int:
        return int(self.body["spec"]["trainer"].get("numNodes", 1))

    def view(self) -> Json:
        conditions = []
        if self.suspended is not None:
            conditions.append({"type": "Suspended", "status": "True", **self.suspended})
        if self.failed is None and any(pod.exit_code not in (0, None) and not pod.lost for pod in self.pods.values()):
            self.fail("JobsFailed", "jobset failed due to one or more job failures")
        if self.failed is not None:
            conditions.append({"type": "Failed", "status": "True", **self.failed})
        elif len(self.pods) == self.nodes and all(pod.exit_code == 0 for pod in self.pods.values()):
            conditions.append(
                {
                    "type": "Complete",
                    "status": "True",
                    "reason": "AllJobsCompleted",
                    "message": "jobset completed successfully",
                }
            )
        for condition in conditions:
            condition.setdefault("lastTransitionTime", now())
        return {**self.body, "status": {"conditions": conditions}}

    def fail(self, reason: str, message: str) -> None:
        self.failed = {"reason": reason, "message": message}

    def pod_bodies(self) -> Sequence[Json]:
        """The pods of its nodes: the runtime's, with what the TrainJob says and patches."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        return [self._pod_body(node, port) for node in range(self.nodes)]

    def _pod_body(self, node: int, port: int) -> Json:
        trainer = self.body["spec"]["trainer"]
        patch = self._patch()
        variables = {
            "PET_NNODES": str(self.nodes),
            "PET_NPROC_PER_NODE": str(trainer.get("numProcPerNode", "auto")),
            "PET_NODE_RANK": str(node),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": str(port),
        }
        environment = [
            *trainer.get("env", []),
            *({"name": name, "value": value} for name, value in variables.items()),
        ]
        (container_patch,) = [c for c in patch["spec"].get("containers", [{"name": "node"}]) if c["name"] == "node"]
        container = {
            **container_patch,
            "image": trainer["image"],
            "command": trainer["command"],
            "env": environment,
            "resources": trainer["resourcesPerNode"],
        }
        spec = {**patch["spec"], "containers": [container], "restartPolicy": "Never"}
        labels = {**patch.get("metadata", {}).get("labels", {}), JOBSET: self.name, INDEX: str(node)}
        metadata = {"name": f"{self.name}-node-0-{node}", "labels": labels}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(spec)}

    def _patch(self) -> Json:
        for entry in self.body["spec"].get("runtimePatches", []):
            for job in entry["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
                if job["name"] == "node":
                    patch: Json = job["template"]["spec"]["template"]
                    return patch
        return {"spec": {}}
