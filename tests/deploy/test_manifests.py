"""What deploy/ would send to a cluster is accepted there, runs without rights it needs not, and holds no secret."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bai_pipeline.study import load_study
from resources import load_compute
from resources.cluster_settings import TrainJobSettings
from tests.deploy.manifests import DEPLOY, Manifest, faults, manifests

ALL = manifests()
NAMED = [pytest.param(m, id=f"{m.kind}-{m.name}") for m in ALL]
OVERLAYS = ("one-node", "8x8")
BASE = {
    *("Namespace-post-training", "PersistentVolumeClaim-bai-store"),
    *("ServiceAccount-bai-dagster", "ServiceAccount-bai-runs", "ServiceAccount-bai-jobs"),
    *("Role-bai-dagster", "Role-bai-runs", "RoleBinding-bai-dagster", "RoleBinding-bai-runs"),
    *("NetworkPolicy-nothing-comes-in", "NetworkPolicy-only-names-go-out", "NetworkPolicy-jobs-reach-jobs"),
    *("NetworkPolicy-dagster-reaches-its-code", "NetworkPolicy-dagster-goes-out"),
}


def test_the_base_holds_what_a_namespace_needs() -> None:
    assert {f"{m.kind}-{m.name}" for m in ALL if m.file.startswith("base/")} == BASE


@pytest.mark.parametrize("manifest", NAMED)
def test_a_manifest_is_accepted(manifest: Manifest) -> None:
    assert faults(manifest.content) == []


@pytest.mark.parametrize("manifest", NAMED)
def test_a_misspelt_field_anywhere_is_found(manifest: Manifest) -> None:
    """The last letter of each field in turn: no field of any manifest is one that nobody would look at."""
    unseen = [path for path, wrong in misspelt(manifest.content) if not faults(wrong)]
    assert unseen == []


def test_every_file_of_a_kustomization_is_there_and_named() -> None:
    for file in DEPLOY.rglob("kustomization.yaml"):
        content = yaml.safe_load(file.read_text())
        generated = [name for g in content.get("configMapGenerator", []) for name in g["files"]]
        for name in [*content.get("resources", []), *content.get("components", []), *generated]:
            assert (file.parent / name).exists(), f"{file}: {name}"
        beside = {p.name for p in file.parent.glob("*.yaml")} - {"kustomization.yaml", "helm-values.yaml"}
        assert beside == {n for n in [*content.get("resources", []), *generated] if n.endswith(".yaml")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_files_of_an_overlay_load(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY.parent)  # as in the image, deploy/deepspeed lies under the working directory
    directory = DEPLOY / "overlays" / overlay
    assert load_compute(directory / "compute.yaml").kind == {"one-node": "kubernetes", "8x8": "trainjob"}[overlay]
    assert load_study(directory / "study.yaml").name == "first-sweep"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_compute_file_names_what_the_manifests_make(overlay: str) -> None:
    compute = yaml.safe_load((DEPLOY / "overlays" / overlay / "compute.yaml").read_text())
    names = {(m.kind, m.name) for m in ALL}
    assert ("Namespace", compute["namespace"]) in names
    assert ("ServiceAccount", compute["service_account"]) in names
    assert ("PersistentVolumeClaim", compute["store_claim"]) in names


def test_the_jobs_of_the_large_overlay_use_its_runtime_and_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY.parent)
    settings = load_compute(DEPLOY / "overlays" / "8x8" / "compute.yaml")
    assert isinstance(settings, TrainJobSettings)
    ppo, names = settings.job("ppo"), {(m.kind, m.name) for m in ALL}
    assert (ppo.runtime_kind, ppo.runtime) in names
    assert ("LocalQueue", ppo.queue) in names
    assert (ppo.nodes, ppo.per_node, settings.ppo.ranks) == (8, 8, 64)


def test_a_pod_may_not_ask_for_more_than_the_restricted_profile() -> None:
    (namespace,) = [m.content for m in ALL if m.kind == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_run_as_nobody_special_on_a_read_only_file_system() -> None:
    pods = [pod for m in ALL for pod in pods_in(m.content)]
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_nothing_may_reach_a_pod_unless_a_policy_says_so() -> None:
    policies = {m.name: m.content["spec"] for m in ALL if m.kind == "NetworkPolicy"}
    assert policies["nothing-comes-in"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    jobs = {"matchExpressions": [{"key": "bai-pipeline/job", "operator": "Exists"}]}
    assert policies["jobs-reach-jobs"]["podSelector"] == jobs
    assert policies["jobs-reach-jobs"]["ingress"] == [{"from": [{"podSelector": jobs}]}]
    open_doors = [name for name, spec in policies.items() if spec.get("ingress") == [{}] or spec.get("egress") == [{}]]
    assert open_doors == []


def test_no_file_of_deploy_holds_a_secret() -> None:
    assert [m.file for m in ALL if m.kind == "Secret"] == []
    word = re.compile(r"(password|token|secret|credential|api_?key)\w*['\"]?\s*[:=]\s*(?P<value>\S.*)", re.IGNORECASE)
    found = []
    for file in sorted(p for p in DEPLOY.rglob("*") if p.is_file()):
        for line in file.read_text().splitlines():
            match = None if line.lstrip().startswith("#") else word.search(line)
            if match and not is_reference(match["value"]):
                found.append(f"{file.relative_to(DEPLOY)}: {line.strip()}")
    assert found == []


def is_reference(value: str) -> bool:
    """A switch, the name of a secret or of a variable: none of them opens anything."""
    allowed = r"(false|true|dagster-postgresql\b|\{env: DAGSTER_PG_PASSWORD\}|\{name: dagster-)"
    return re.match(allowed, value) is not None


def test_a_secret_in_a_file_would_be_found() -> None:
    assert not is_reference("hunter2")


def misspelt(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of a manifest in which one field has another name, each with the path of that field."""
    for path in fields_of(content, ()):
        wrong = copy.deepcopy(content)
        inner: Any = wrong
        for key in path[:-1]:
            inner = inner[key]
        inner[f"{path[-1]}x"] = inner.pop(path[-1])
        yield ".".join(map(str, path)), wrong


FREE = {"labels", "matchLabels", "annotations", "nodeLabels", "requests", "limits"}
"""Mappings whose keys anybody may choose."""


def fields_of(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict) and (not path or path[-1] not in FREE):
        for key, inner in value.items():
            if path or key not in ("apiVersion", "kind"):  # without them it is not even a manifest
                yield (*path, key)
            yield from fields_of(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from fields_of(inner, (*path, number))


def pods_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods_in(inner)


def test_the_runtimes_pods_are_those_that_the_network_policies_select() -> None:
    (runtime,) = [m.content for m in ALL if m.kind == "TrainingRuntime"]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert "bai-pipeline/job" in job["template"]["spec"]["template"]["metadata"]["labels"]
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert [container["name"] for container in pods_in(runtime).__next__()["containers"]] == ["node"]
