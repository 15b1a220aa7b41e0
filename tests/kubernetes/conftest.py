"""A cluster on loopback: the API stand-in, and a kubeconfig that names it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.stand_in import StandIn


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    """In its pods `python` is the Python that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "HOME") if name in os.environ}
    with StandIn({**kept, "PATH": path, "OMP_NUM_THREADS": "1"}).serving() as stand_in:
        yield stand_in


@pytest.fixture
def kubeconfig(cluster: StandIn, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "stand-in",
                "clusters": [{"name": "stand-in", "cluster": {"server": f"http://127.0.0.1:{cluster.port}"}}],
                "users": [{"name": "tester", "user": {}}],
                "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "tester"}}],
            }
        )
    )
    return path
