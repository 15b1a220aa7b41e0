"""The sensors that end what runs leave in the cluster."""

import time
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.ended_runs import WILL_RETRY, ended_run_sensors
from resources import LocalCompute, LocalSettings
from resources.attachments import Attachment, note_attachment
from resources.cluster_api import PODS, Cluster
from tests.kubernetes.cluster import compute_on
from tests.kubernetes.stand_in import StandIn

NAME = "bai-ppo-000000000000-1"


def leave_a_pod(cluster: Cluster, instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run that has failed, and its pod, which goes on."""
    run = instance.add_run(
        dg.DagsterRun(job_name="sweep", run_id="1" * 32, status=dg.DagsterRunStatus.FAILURE, tags=tags)
    )
    note_attachment(instance, run.run_id, Attachment("0" * 32, "pods", NAME))
    container = {"name": "job", "image": "registry.example/bai-jobs:1.0", "command": ["sleep", "60"]}
    cluster.create(
        PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": {"containers": [container]}}
    )
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found


@pytest.mark.parametrize(("tags", "ended"), [({}, True), ({WILL_RETRY: "true"}, False)])
def test_the_pod_of_a_failed_run_is_ended_unless_the_run_is_started_again(
    cluster: StandIn, kubeconfig: Path, tags: dict[str, str], ended: bool
) -> None:
    compute = compute_on(kubeconfig)
    (sensor,) = [s for s in ended_run_sensors(compute) if "failure" in s.name]
    with dg.DagsterInstance.ephemeral() as instance:
        run = leave_a_pod(Cluster(compute.settings), instance, **tags)
        context = dg.build_run_status_sensor_context(
            sensor_name=sensor.name,
            dagster_instance=instance,
            dagster_run=run,
            dagster_event=dg.DagsterEvent("PIPELINE_FAILURE", "sweep"),
        )
        sensor(context, compute=compute)
    deadline = time.monotonic() + 10
    while ended and cluster.pods and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (not cluster.pods) == ended


def test_only_where_jobs_outlive_their_run_there_are_sensors(kubeconfig: Path, tmp_path: Path) -> None:
    local = build_definitions("smoke", str(tmp_path), LocalCompute(LocalSettings()))
    remote = build_definitions("smoke", str(tmp_path), compute_on(kubeconfig))
    names = [{sensor.name for sensor in found.sensors or ()} for found in (local, remote)]
    assert names[1] - names[0] == {"end_what_canceled_runs_left", "end_what_failure_runs_left"}
