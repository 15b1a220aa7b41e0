"""What happens when something goes wrong in the cluster: every row of the table, and that the guide has it."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from bai_pipeline.jobspec import JobSpec
from bai_pipeline.store import Store
from resources import Finished
from resources.cluster_api import RIGHTS
from tests.kubernetes.cluster import compute_on, wait_until_nothing_runs
from tests.kubernetes.fault_table import TABLE, Row, What
from tests.kubernetes.node_jobs import COMMAND
from tests.kubernetes.stand_in import StandIn
from tests.resources.one_run import run
from tests.resources.stand_in_jobs import spec

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "kubernetes.md"
STEPS = 8


def settings_of(row: Row) -> dict[str, Any]:
    if row.nodes == 1:
        return dict(row.settings)
    spread = {"kind": "trainjob", "command": COMMAND, "supervised": {"ranks": row.nodes}}
    return {**spread, "jobs": {"pretrain": {"nodes": row.nodes}}, **row.settings}


def job_of(row: Row) -> JobSpec:
    if row.nodes > 1:
        return spec("pretrain", act=row.job, steps=STEPS, pause=0.3)
    return spec(row.job, **({"steps": STEPS} if row.job == "count" else {}))


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.fault, marks=[] if row.quick else [pytest.mark.soak]) for row in TABLE]
)
def test_a_fault_has_the_outcome_of_the_table(
    row: Row, cluster: StandIn, kubeconfig: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, job = Store(tmp_path / "store"), job_of(row)
    cluster.pod_faults = [list(faults) for faults in row.pods]
    cluster.answers = list(row.answers)
    cluster.warnings = list(row.warnings)
    outcome = run(compute_on(kubeconfig, **settings_of(row)), job, store)
    said = capfd.readouterr().err if isinstance(outcome, Finished) else str(outcome.description)
    assert re.search(row.says, said, re.DOTALL), said
    assert "[pipes] unexpected message" not in said
    assert isinstance(outcome, Finished) == (row.what in (What.GOES_ON, What.STARTS_AGAIN)), outcome
    if isinstance(outcome, dg.Failure):
        assert outcome.allow_retries == (row.what is What.RETRIED)
    assert len(cluster.created) == row.workloads
    assert asked(cluster) <= RIGHTS
    if isinstance(outcome, Finished) and row.job == "count":
        check_steps(store, job, outcome, row.repeated, whole=row.what is What.GOES_ON)
    if row.left:
        assert cluster.running()
        return
    wait_until_nothing_runs(cluster)


def asked(cluster: StandIn) -> set[tuple[str, str]]:
    """What was asked of the API server, as roles name it."""
    found = set()
    for method, path in cluster.requests:
        _, resource, *rest = path.split("/namespaces/")[1].split("/")
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if rest else "list"}[method]
        found.add((f"{resource}/{rest[1]}" if len(rest) > 1 else resource, verb))
    return found


def check_steps(store: Store, job: JobSpec, outcome: Finished, repeated: int, *, whole: bool) -> None:
    """Every step was computed, once unless a kill without warning came in between; and so says the log."""
    computed = Counter((store.open(outcome.result.object) / "computed.txt").read_text().split())
    assert computed.keys() == {str(step) for step in range(1, STEPS + 1)}
    assert sum(computed.values()) <= STEPS + repeated
    log = (store.job_directory(job.identity) / "log.txt").read_text().splitlines()
    logged = Counter(line for line in log if line.startswith("step "))
    assert sum(logged.values()) <= STEPS + repeated
    if whole:  # of a pod that is gone, nobody has seen what it wrote since the last look
        assert logged.keys() == {f"step {step} of {STEPS}" for step in range(1, STEPS + 1)}
    assert not any("__dagster_pipes" in line for line in log)


def test_the_table_has_every_fault_once_and_enough_of_them() -> None:
    assert len({row.fault for row in TABLE}) == len(TABLE) >= 20
    assert {row.what for row in TABLE} == set(What)


def test_the_guide_shows_the_table() -> None:
    assert shown(TABLE) in GUIDE.read_text(), f"the section Faults of {GUIDE} has to be:\n\n{shown(TABLE)}"


def shown(table: tuple[Row, ...]) -> str:
    """The table as Markdown: patterns as the text that they stand for."""
    lines = ["| fault | what the run says | what happens |", "|---|---|---|"]
    for row in table:
        either = re.sub(r"^\((.*)\|(.*)\)$", r"\1` or `\2", row.says)
        says = re.sub(r"\\(.)", r"\1", either).replace(".*", "… ")
        lines.append(f"| {row.fault} | {f'`{says}`' if says else ''} | {row.what.value} |")
    return "\n".join(lines) + "\n"
