"""A job in the cluster outlives the process that started it, and never its last run."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from bai_pipeline.jobs.runner import reported_result
from bai_pipeline.store import Store
from resources.attachments import Attachment, attachments_of, note_attachment
from resources.cluster_api import PODS, Cluster
from tests.kubernetes.cluster import compute_on
from tests.kubernetes.one_run import HELD_AT, STEPS, counting
from tests.kubernetes.stand_in import StandIn
from tests.resources.one_run import run

CANCELLED_WITHIN = 10.0
"""Seconds from SIGTERM to the run until nothing of its job is left."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Dagster instance that processes share."""
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return directory


@contextmanager
def running(kubeconfig: Path, store: Store, home: Path, until_step: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own."""
    command = [sys.executable, "-m", "tests.kubernetes.one_run", str(kubeconfig), str(store.root), str(until_step)]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    with (home / f"run-{until_step}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait(condition: Callable[[], object], seconds: float = 60.0) -> float:
    """Seconds until the condition holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - start


def log_of(store: Store) -> list[str]:
    path = store.job_directory(counting(1).identity) / "log.txt"
    return path.read_text().splitlines() if path.is_file() else []


def is_held(store: Store) -> bool:
    return f"step {HELD_AT} of {STEPS}" in log_of(store)


def let_go(store: Store) -> None:
    (store.job_directory(counting(1).identity) / "work" / "go").touch()


def says(home: Path, text: str, until_step: int = 1) -> Callable[[], bool]:
    return lambda: text in (home / f"run-{until_step}.log").read_text()


def check_every_step_once(store: Store) -> None:
    result = reported_result(store, counting(1).identity)
    assert result is not None
    computed = (store.open(result.object) / "computed.txt").read_text().split()
    assert computed == [str(step) for step in range(1, STEPS + 1)]
    logged = Counter(line for line in log_of(store) if line.startswith("step "))
    assert logged == Counter(f"step {step} of {STEPS}" for step in range(1, STEPS + 1))


def test_the_pod_of_a_killed_run_goes_on_and_the_next_run_takes_it_over(
    cluster: StandIn, kubeconfig: Path, store: Store, home: Path
) -> None:
    with running(kubeconfig, store, home) as process:
        wait(lambda: is_held(store))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert cluster.running()
    with running(kubeconfig, store, home) as process:
        wait(says(home, "taken over"))
        let_go(store)
        assert process.wait(60) == 0
    check_every_step_once(store)
    assert len(cluster.created) == 1
    wait(lambda: not cluster.pods, 10)


def test_a_cancelled_run_ends_its_pod_which_saves_its_state(
    cluster: StandIn, kubeconfig: Path, store: Store, home: Path
) -> None:
    with running(kubeconfig, store, home) as process:
        wait(lambda: is_held(store))
        process.send_signal(signal.SIGTERM)
        seconds = wait(lambda: not cluster.pods and not cluster.running(), CANCELLED_WITHIN)
        process.wait(30)
    print(f"ended {seconds:.1f} s after SIGTERM")
    saved = int((store.job_directory(counting(1).identity) / "work" / "checkpoint").read_text())
    computed = (store.job_directory(counting(1).identity) / "work" / "computed.txt").read_text().split()
    assert computed == [str(step) for step in range(1, saved + 1)]


@pytest.mark.soak
def test_a_pod_that_another_run_waits_for_is_not_ended(
    cluster: StandIn, kubeconfig: Path, store: Store, home: Path
) -> None:
    with running(kubeconfig, store, home) as first:
        wait(lambda: is_held(store))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            (run_id,) = [found.run_id for found in instance.get_runs()]
            note = attachments_of(instance, run_id)
            second = instance.add_run(
                dg.DagsterRun(job_name="second", run_id="2" * 32, status=dg.DagsterRunStatus.STARTED)
            )
            note_attachment(instance, second.run_id, note[0])
            first.send_signal(signal.SIGTERM)
            first.wait(30)
            assert cluster.running(), "the pod was ended, though another run waits for it"
            assert compute_on(kubeconfig).release(instance, run_id) == []
            instance.report_run_canceled(second)
            assert compute_on(kubeconfig).release(instance, second.run_id) == [f"Pod {note[0].name}"]
    wait(lambda: not cluster.pods and not cluster.running(), 10)


@pytest.mark.soak
def test_a_run_that_wants_more_steps_waits_for_the_pod_of_the_same_job(
    cluster: StandIn, kubeconfig: Path, store: Store, home: Path
) -> None:
    with running(kubeconfig, store, home) as first:
        wait(lambda: is_held(store))
        with running(kubeconfig, store, home, until_step=2) as second:
            wait(says(home, "runs this job with another specification", until_step=2))
            assert len(cluster.created) == 1
            let_go(store)
            assert (first.wait(60), second.wait(60)) == (0, 0)
    check_every_step_once(store)
    assert len(cluster.created) <= 2


def test_what_is_not_there_any_more_is_not_released(cluster: StandIn, kubeconfig: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        gone = instance.add_run(dg.DagsterRun(job_name="gone", run_id="1" * 32, status=dg.DagsterRunStatus.CANCELED))
        note_attachment(instance, gone.run_id, Attachment("0" * 32, "pods", "bai-ppo-000000000000-1"))
        assert compute_on(kubeconfig).release(instance, gone.run_id) == []
    assert ("DELETE", "/api/v1/namespaces/default/pods/bai-ppo-000000000000-1") not in cluster.requests


def test_a_pod_of_the_same_name_that_is_not_ours_is_left_alone(
    cluster: StandIn, kubeconfig: Path, store: Store
) -> None:
    compute = compute_on(kubeconfig)
    container = {"name": "other", "image": "registry.example/other:1", "command": ["sleep", "60"]}
    run(compute_on(kubeconfig, command=["true"]), counting(1), store)
    name = cluster.created[0]["metadata"]["name"]
    wait(lambda: not cluster.pods, 10)
    Cluster(compute.settings).create(
        PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    )
    outcome = run(compute, counting(1), store)
    assert isinstance(outcome, dg.Failure)
    assert f"Pod {name} in namespace default is in the way: it is not of this job" in str(outcome.description)
    assert not outcome.allow_retries
    assert [pod.name for pod in cluster.pods.values()] == [name]
