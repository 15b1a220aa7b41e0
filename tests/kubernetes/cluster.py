"""A cluster on loopback for a test: the API stand-in, a kubeconfig that names it, and compute on it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from resources import KubernetesSettings, TrainJobSettings
from resources.kubernetes import ClusterCompute
from tests.kubernetes.stand_in import StandIn
from tests.resources.stand_in_jobs import COMMAND

QUICK = {
    "poll_interval": 0.1,
    "result_timeout": 0.0,
    "schedule_timeout": 1.0,
    "start_timeout": 1.0,
    "node_timeout": 1.0,
    "api_timeout": 3.0,
    "request_timeout": 3.0,
    "termination_grace": 5,
}


@contextmanager
def running_cluster(**options: Any) -> Iterator[StandIn]:
    """In its pods `python` is the Python that runs the tests; of our environment they have nothing else."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    with StandIn({**kept, "PATH": path, "OMP_NUM_THREADS": "1"}, **options).serving() as cluster:
        yield cluster


def write_kubeconfig(cluster: StandIn, path: Path) -> Path:
    server = f"http://127.0.0.1:{cluster.port}"
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "stand-in",
        "clusters": [{"name": "stand-in", "cluster": {"server": server}}],
        "users": [{"name": "tester", "user": {}}],
        "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "tester"}}],
    }
    path.write_text(yaml.safe_dump(configuration))
    return path


def kubernetes_file(kubeconfig: Path, **settings: Any) -> dict[str, Any]:
    """A compute file of kind kubernetes, as YAML would give it."""
    return {
        "kind": "kubernetes",
        "image": "registry.example/bai-jobs:1.0",
        "kubeconfig": str(kubeconfig),
        "store_claim": "bai-store",
        **QUICK,
        **settings,
    }


def compute_on(kubeconfig: Path, **settings: Any) -> ClusterCompute:
    """Compute whose pods run the stand-in jobs, with timeouts of seconds."""
    file = kubernetes_file(kubeconfig, **{"command": ["python", *COMMAND[1:]], **settings})
    kind = TrainJobSettings if file["kind"] == "trainjob" else KubernetesSettings
    return ClusterCompute(kind.model_validate(file))


def wait_until_nothing_runs(cluster: StandIn) -> None:
    """No process of any pod, and no object but the pods of lost nodes, which only their node can give up."""
    deadline = time.monotonic() + 10
    while cluster.running() or cluster.trainjobs or any(not pod.lost for pod in cluster.pods.values()):
        assert time.monotonic() < deadline, (cluster.running(), list(cluster.pods), list(cluster.trainjobs))
        time.sleep(0.05)
