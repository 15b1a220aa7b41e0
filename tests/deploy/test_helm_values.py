"""The values for the Dagster chart, and the instance that they and deploy/dagster-postgres.yaml ask for."""

import copy
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._core.instance.ref import InstanceRef
from dagster_k8s import K8sRunLauncher
from dagster_k8s.models import k8s_snake_case_dict

from assets.graph import POOLS
from tests.deploy.chart_values import faults_of_values
from tests.deploy.manifests import DEPLOY
from tests.deploy.test_manifests import misspelt, pods_in

OVERLAYS = ("one-node", "8x8")


def values_of(overlay: str) -> dict[str, Any]:
    """As helm merges the files."""
    merged: dict[str, Any] = {}
    for file in (DEPLOY / "helm" / "values.yaml", DEPLOY / "overlays" / overlay / "helm-values.yaml"):
        merged = over(merged, yaml.safe_load(file.read_text()))
    return merged


def over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {k: over(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **both}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_knows_every_value(overlay: str) -> None:
    assert faults_of_values(values_of(overlay)) == []


def test_a_misspelt_value_anywhere_is_found() -> None:
    values = copy.deepcopy(values_of("8x8"))  # YAML's anchors would misspell several places at once
    unseen = [path for path, wrong in misspelt(values) if not faults_of_values(wrong)]
    assert unseen == []


def test_every_container_of_the_chart_is_confined() -> None:
    values = values_of("one-node")
    (code,) = values["dagster-user-deployments"]["deployments"]
    for pod in (values["dagsterWebserver"], values["dagsterDaemon"], code):
        assert pod["podSecurityContext"]["runAsNonRoot"] is True
        assert pod["podSecurityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert_confined(pod["securityContext"])
        assert pod["resources"]["requests"]
        assert pod["resources"]["limits"]["memory"]
        assert {"/tmp", "/opt/dagster/dagster_home"} <= {mount["mountPath"] for mount in pod["volumeMounts"]}
        assert {mount["name"] for mount in pod["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert_confined(values["runLauncher"]["config"]["k8sRunLauncher"]["securityContext"])
    for pod in pods_in(values["extraManifests"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert_confined(pod["containers"][0]["securityContext"])


def assert_confined(context: dict[str, Any]) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_database_is_outside_and_its_password_in_a_secret() -> None:
    values = values_of("8x8")
    assert values["postgresql"]["enabled"] is False
    assert values["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in values["postgresql"]
    assert values["global"]["postgresqlSecretName"] == "dagster-postgresql"


def test_the_launcher_of_runs_takes_its_settings() -> None:
    """What the chart writes into dagster.yaml from the values, held against the launcher's own schema."""
    launcher = values_of("8x8")["runLauncher"]["config"]["k8sRunLauncher"]
    config = {
        "load_incluster_config": launcher["loadInclusterConfig"],
        "image_pull_policy": launcher["imagePullPolicy"],
        "security_context": launcher["securityContext"],
        "run_k8s_config": {"job_spec_config": launcher["runK8sConfig"]["jobSpecConfig"]},
        "service_account_name": "bai-dagster",
        "instance_config_map": "dagster-instance",
    }
    assert accepted(config)
    assert not accepted({**config, "image_pull_polic": "Always"})
    spec = launcher["runK8sConfig"]["jobSpecConfig"]
    assert k8s_snake_case_dict(kubernetes.client.V1JobSpec, spec) == {"ttl_seconds_after_finished": 86400}


def accepted(config: dict[str, Any]) -> bool:
    schema: Any = K8sRunLauncher
    return bool(process_config(resolve_to_config_type(schema.config_type()), config).success)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pool_of_the_graph_has_a_limit(overlay: str) -> None:
    values = values_of(overlay)
    assert values["concurrency"]["pools"]["granularity"] == "run"
    (job,) = values["extraManifests"]
    (script,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    limits = {pool: int(limit) for *_, pool, limit in (line.split() for line in script.splitlines())}
    assert set(limits) == set(POOLS.values())
    assert all(0 < limit <= values["concurrency"]["runs"]["maxConcurrentRuns"] for limit in limits.values())


def test_the_instance_for_a_server_is_valid_and_takes_its_database_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DEPLOY / "dagster-postgres.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(text)
    reference = InstanceRef.from_dir(str(tmp_path))
    assert reference.event_storage_data is not None
    assert reference.event_storage_data.class_name == "PostgresEventLogStorage"
    database = yaml.safe_load(text)["storage"]["postgres"]["postgres_db"]
    assert database.pop("scheme") == "postgresql+psycopg2" == values_of("8x8")["postgresql"]["postgresqlScheme"]
    assert all(list(value) == ["env"] for value in database.values())
    retries: Any = reference.settings["run_retries"]
    assert retries["retry_on_asset_or_op_failure"] is False
    (tmp_path / "dagster.yaml").write_text(text.replace("granularity", "granularit"))
    with pytest.raises(Exception, match="granularit"):
        InstanceRef.from_dir(str(tmp_path))
