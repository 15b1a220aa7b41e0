"""Jobs as pods: the same results as local subprocesses, and failures told with the pod's log."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources import Finished, LocalCompute, LocalSettings
from resources.kubernetes import ClusterCompute
from tests.kubernetes.cluster import compute_on, wait_until_nothing_runs
from tests.kubernetes.stand_in import StandIn
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import COMMAND, spec

MakeCompute = Callable[..., ClusterCompute]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def kubernetes(kubeconfig: Path) -> MakeCompute:
    return partial(compute_on, kubeconfig)


def finished(outcome: Finished | dg.Failure) -> Finished:
    assert isinstance(outcome, Finished), outcome
    return outcome


def test_a_pod_gives_the_same_object_as_a_local_subprocess(
    kubernetes: MakeCompute, cluster: StandIn, store: Store, tmp_path: Path
) -> None:
    pod = finished(run(kubernetes(), spec("answer"), store))
    local = finished(run(LocalCompute(LocalSettings(command=COMMAND)), spec("answer"), Store(tmp_path / "other")))
    assert pod.result.digest == local.result.digest
    assert pod.result.object == local.result.object
    assert pod.result.checks == local.result.checks
    wait_until_nothing_runs(cluster)


def test_a_failing_pod_is_told_with_the_tail_of_its_log(
    kubernetes: MakeCompute, cluster: StandIn, store: Store
) -> None:
    failure = run(kubernetes(), spec("crash"), store)
    assert isinstance(failure, dg.Failure)
    assert failure.description is not None
    log = store.job_directory(spec("crash").identity) / "log.txt"
    name = cluster.created[0]["metadata"]["name"]
    assert f"failed with exit code 1 in Pod {name}; its log is {log} and ends with:" in failure.description
    assert failure.description.splitlines()[-1].strip() == "ZeroDivisionError: a bug"
    assert "__dagster_pipes" not in failure.description
    assert "line 0" in log.read_text().splitlines()
    assert failure.allow_retries
    wait_until_nothing_runs(cluster)


def test_a_refusal_in_a_pod_is_not_retried(kubernetes: MakeCompute, store: Store) -> None:
    failure = run(kubernetes(), spec("refuse"), store)
    assert isinstance(failure, dg.Failure)
    assert "DataError: prompts.parquet holds no rows" in str(failure.description)
    assert not failure.allow_retries


def test_a_command_that_the_image_lacks_is_told(kubernetes: MakeCompute, store: Store) -> None:
    failure = run(kubernetes(command=["no-such-program"]), spec("answer"), store)
    assert isinstance(failure, dg.Failure)
    assert "StartError: failed to start container: exec: no-such-program" in str(failure.description)


def test_a_cluster_that_does_not_answer_is_told(kubernetes: MakeCompute, kubeconfig: Path, store: Store) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("127.0.0.1:", "127.0.0.1:1 #"))
    failure = run(kubernetes(), spec("answer"), store)
    assert isinstance(failure, dg.Failure)
    assert "Connection refused" in str(failure.description)


def test_compute_changes_no_job_identity(kubernetes: MakeCompute, cluster: StandIn, store: Store) -> None:
    finished(run(kubernetes(), spec("answer"), store))
    again = finished(run(LocalCompute(LocalSettings(command=COMMAND)), spec("answer"), store))
    assert again.reused
    assert len(cluster.created) == 1


def test_a_job_specification_says_nothing_of_compute() -> None:
    text = JobSpec("answer", "1", {}, {}).to_json()
    assert "kubernetes" not in text
    assert "local" not in text
