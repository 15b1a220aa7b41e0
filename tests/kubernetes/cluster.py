"""A cluster on loopback for a test: the API stand-in, and a kubeconfig that names it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.kubernetes.stand_in import StandIn


@contextmanager
def running_cluster() -> Iterator[StandIn]:
    """In its pods `python` is the Python that runs the tests; of our environment they have nothing else."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}
    with StandIn({**kept, "PATH": path, "OMP_NUM_THREADS": "1"}).serving() as cluster:
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
