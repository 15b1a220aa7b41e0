"""Who may do what in the cluster: the roles are this table, no more and no less."""

import re
from pathlib import Path

import dagster_k8s

from resources.cluster_api import RIGHTS as RIGHTS_ASKED
from tests.deploy.manifests import manifests

RIGHTS = {
    "bai-dagster": {
        "batch/jobs": {"create", "delete", "list"},
        "batch/jobs/status": {"get"},
        "pods": {"delete", "get", "list"},
        "pods/log": {"get"},
        "events": {"list"},
    },
    "bai-runs": {
        "pods": {"create", "delete", "get", "list"},
        "pods/log": {"get"},
        "events": {"list"},
        "trainer.kubeflow.org/trainjobs": {"create", "delete", "get", "list"},
    },
    "bai-jobs": {},
}
VERBS = {"create": "create", "delete": "delete", "list": "list", "read": "get", "get": "get", "patch": "patch"}
"""First word of a method of the Kubernetes client -> the verb that it needs."""
RESOURCES = {"pod_log": "pods/log", "job_status": "jobs/status"}
"""Rest of such a method's name -> the resource, where it is not just the plural."""


def rights() -> dict[str, dict[str, set[str]]]:
    """Service account -> resource -> verbs, over all roles that are bound to it."""
    all_manifests = [m.content for m in manifests()]
    roles = {m["metadata"]["name"]: m["rules"] for m in all_manifests if m["kind"] == "Role"}
    found: dict[str, dict[str, set[str]]] = {
        m["metadata"]["name"]: {} for m in all_manifests if m["kind"] == "ServiceAccount"
    }
    for binding in (m for m in all_manifests if m["kind"] == "RoleBinding"):
        (subject,) = binding["subjects"]
        for rule in roles[binding["roleRef"]["name"]]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    name = f"{group}/{resource}" if group else resource
                    found[subject["name"]].setdefault(name, set()).update(rule["verbs"])
    return found


def test_the_roles_are_the_table() -> None:
    assert rights() == RIGHTS


def test_there_is_no_right_beyond_the_namespace_and_no_wildcard() -> None:
    assert [m.name for m in manifests() if m.kind in ("ClusterRole", "ClusterRoleBinding")] == []
    for resources in rights().values():
        assert all("*" not in name and "*" not in verbs for name, verbs in resources.items())


def test_the_rights_cover_what_the_launcher_of_runs_asks_the_api() -> None:
    """Read from the source of the launcher and the client that it uses, as they are installed."""
    directory = Path(dagster_k8s.__file__).parent
    called = calls(directory / "launcher.py") | calls(directory / "client.py")
    assert called >= {("jobs", "create"), ("jobs", "delete"), ("pods", "list")}
    assert called <= {(name.removeprefix("batch/"), verb) for name, verb in granted("bai-dagster")}


def test_the_rights_of_runs_are_what_our_compute_ever_asks() -> None:
    """A test of the faults holds every request to the stand-in against the same table."""
    plain = {(name.removeprefix("trainer.kubeflow.org/"), verb) for name, verb in granted("bai-runs")}
    assert plain == RIGHTS_ASKED


def granted(account: str) -> set[tuple[str, str]]:
    return {(name, verb) for name, verbs in RIGHTS[account].items() for verb in verbs}


def calls(path: Path) -> set[tuple[str, str]]:
    """(resource, verb) of every call of a namespaced method of the Kubernetes client in a file."""
    found = set()
    for verb, kind in re.findall(r"api\.(create|delete|list|read|get|patch)_namespaced_(\w+)\(", path.read_text()):
        found.add((RESOURCES.get(kind, f"{kind}s"), VERBS[verb]))
    return found
