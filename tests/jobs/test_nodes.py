"""Ranks of a job on several nodes: who is who, and how a node ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bai_pipeline.errors import JobError
from bai_pipeline.jobs.ranks import Node
from bai_pipeline.jobs.runner import EXIT_REFUSED, write_spec
from bai_pipeline.jobspec import Execution, JobSpec
from bai_pipeline.store import Store

SECOND_OF_TWO = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "ppo-node-0-0.ppo",
    "PET_MASTER_PORT": "29400",
}


def test_the_second_of_two_nodes_has_the_second_half_of_the_ranks() -> None:
    node = Node.of(SECOND_OF_TWO, 8)
    assert [node.environment(local)["RANK"] for local in range(node.ranks)] == ["4", "5", "6", "7"]
    assert node.environment(3) == {
        "RANK": "7",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "3",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "ppo-node-0-0.ppo",
        "MASTER_PORT": "29400",
    }


@pytest.mark.parametrize("told", ["auto", "gpu", None])
def test_a_node_that_is_not_told_how_many_ranks_it_has_gets_its_share(told: str | None) -> None:
    environment = {**SECOND_OF_TWO, "PET_NPROC_PER_NODE": told} if told else dict(SECOND_OF_TWO)
    if told is None:
        del environment["PET_NPROC_PER_NODE"]
    assert Node.of(environment, 6).ranks == 3


@pytest.mark.parametrize("environment", [{}, {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "8"}])
def test_one_node_has_all_ranks_and_meets_on_loopback(environment: dict[str, str]) -> None:
    node = Node.of(environment, 2)
    assert (node.number, node.count, node.ranks, node.address) == (0, 1, 2, "127.0.0.1")
    assert node.port > 0


@pytest.mark.parametrize(
    ("change", "ranks", "error"),
    [
        ({}, 6, "the job has 6 ranks, but it was started on 2 nodes with 4 each"),
        ({"PET_NNODES": "1:4"}, 8, "PET_NNODES has to be a number on each of several nodes, got '1:4'"),
        ({"PET_NODE_RANK": ""}, 8, "PET_NODE_RANK has to be a number"),
        ({"PET_NODE_RANK": "2"}, 8, "PET_NODE_RANK is 2, which is none of 2 nodes"),
        ({"PET_MASTER_ADDR": ""}, 8, "PET_MASTER_ADDR does not say where the ranks meet"),
        ({"PET_MASTER_PORT": "x"}, 8, "PET_MASTER_PORT has to be a number"),
        ({"PET_NPROC_PER_NODE": "many"}, 8, "PET_NPROC_PER_NODE has to be a number"),
    ],
)
def test_nodes_that_do_not_fit_the_job_are_refused(change: dict[str, str], ranks: int, error: str) -> None:
    with pytest.raises(JobError, match=error):
        Node.of({**SECOND_OF_TWO, **change}, ranks)


def test_a_job_on_nodes_that_do_not_fit_it_ends_as_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uri = write_spec(JobSpec("ppo", "1", {}, {}, 0, Execution(ranks=3)), store)
    done = subprocess.run(
        [sys.executable, "-m", "bai_pipeline.jobs", uri],
        env={**os.environ, **SECOND_OF_TWO, "BAI_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == EXIT_REFUSED
    assert "JobError: the job has 3 ranks" in done.stderr


@pytest.mark.soak
def test_a_refusal_on_the_first_node_ends_the_ranks_on_the_other(tmp_path: Path) -> None:
    """Real ranks: the first one finds that an input is not there, the other one loses its connection."""
    store = Store(tmp_path)
    execution = Execution(inputs={"data": "store:objects/pretraining_data/0"}, ranks=2)
    uri = write_spec(JobSpec("pretrain", "1", {"data": "0"}, {}, 0, execution), store)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "bai_pipeline.jobs", uri],
            env={**os.environ, **shared, "PET_NODE_RANK": str(node), "BAI_STORE": str(store.root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    (_, first), (_, other) = (node.communicate(timeout=250) for node in nodes)
    assert nodes[0].returncode == EXIT_REFUSED
    assert "StoreError: " in first
    assert nodes[1].returncode not in (0, EXIT_REFUSED)
    assert "Error" in other
