"""Fixtures: a cluster and its kubeconfig."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import running_cluster, write_kubeconfig
from tests.kubernetes.stand_in import StandIn


@pytest.fixture
def cluster() -> Iterator[StandIn]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def kubeconfig(cluster: StandIn, tmp_path: Path) -> Path:
    return write_kubeconfig(cluster, tmp_path / "kubeconfig")
