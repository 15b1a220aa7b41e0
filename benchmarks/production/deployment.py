"""The processes of a Dagster deployment, each as on a server of its own, and what one asks them over GraphQL."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.production.postgres import free_port

ROOT = Path(__file__).parents[2]
LOCATION = "bai_pipeline"
START_SECONDS = 180.0

BACKFILL = """
mutation($assets: [AssetKeyInput!]!, $partitions: [String!]!) {
  launchPartitionBackfill(backfillParams: {assetSelection: $assets, partitionNames: $partitions}) {
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
BACKFILL_STATUS = """
query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }"""
START_SCHEDULE = """
mutation($location: String!, $schedule: String!) {
  startSchedule(scheduleSelector: {
    repositoryLocationName: $location, repositoryName: "__repository__", scheduleName: $schedule
  }) { ... on ScheduleStateResult { scheduleState { id selectorId status } } ... on PythonError { message } }
}"""
SCHEDULE = """
query($location: String!, $schedule: String!) {
  scheduleOrError(scheduleSelector: {
    repositoryLocationName: $location, repositoryName: "__repository__", scheduleName: $schedule
  }) { ... on Schedule { scheduleState { id status } } ... on PythonError { message } }
}"""
STOP_SCHEDULE = """
mutation($id: String!) {
  stopRunningSchedule(id: $id) {
    ... on ScheduleStateResult { scheduleState { status } } ... on PythonError { message }
  }
}"""


class DeploymentError(RuntimeError):
    """A process of the deployment did not do what it was asked."""


class Deployment:
    """A running deployment."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self._url = url

    def ask(self, query: str, **variables: Any) -> Any:
        """The one field of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self._url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        if "errors" in answer:
            raise DeploymentError(f"GraphQL: {answer['errors']}")
        (value,) = answer["data"].values()
        if "message" in value:
            raise DeploymentError(value["message"])
        return value

    def backfill(self, assets: list[str], partitions: list[str], seconds: float) -> str:
        """Launch a backfill and wait for its end.

        Returns:
            Its identifier.

        Raises:
            DeploymentError: it did not succeed within `seconds`.
        """
        launched = self.ask(BACKFILL, assets=[{"path": [asset]} for asset in assets], partitions=partitions)
        identifier = str(launched["backfillId"])
        status = ""

        def over() -> bool:
            nonlocal status
            status = self.ask(BACKFILL_STATUS, id=identifier)["status"]
            return status.startswith("COMPLETED") or status in ("FAILED", "CANCELED")

        wait(over, seconds, f"the backfill {identifier}")
        if status != "COMPLETED_SUCCESS":
            raise DeploymentError(f"the backfill {identifier} ended as {status}; logs are in {self.home}")
        return identifier

    @contextmanager
    def schedule(self, name: str) -> Iterator[None]:
        """A schedule that is on."""
        self.ask(START_SCHEDULE, location=LOCATION, schedule=name)
        try:
            yield
        finally:
            wait(lambda: self._is_off(name), 120, f"the end of the schedule {name}")

    def _is_off(self, schedule: str) -> bool:
        """Whether a schedule stays off. A tick that was under way when it was stopped turns it on again at its end."""
        state = self.ask(SCHEDULE, location=LOCATION, schedule=schedule)["scheduleState"]
        if state["status"] == "STOPPED":
            return True
        self.ask(STOP_SCHEDULE, id=state["id"])
        time.sleep(10)
        return False


@contextmanager
def deployment(home: Path, instance: Path, environment: Mapping[str, str]) -> Iterator[Deployment]:
    """Code server, daemon and webserver with `home` as DAGSTER_HOME, their logs in it.

    Args:
        instance: the dagster.yaml to use.
        environment: added to that of every process: the study, the store, the database.
    """
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(instance.read_text(encoding="utf-8"), encoding="utf-8")
    code, web = free_port(), free_port()
    server = {"host": "127.0.0.1", "port": code, "location_name": LOCATION}
    workspace = home / "workspace.yaml"
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}), encoding="utf-8")
    variables = {**os.environ, **environment, "DAGSTER_HOME": str(home)}
    commands = {
        "code-server": ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(code), "-m", "assets.definitions"],
        "webserver": ["dagster-webserver", "-h", "127.0.0.1", "-p", str(web), "-w", str(workspace)],
        "daemon": ["dagster-daemon", "run", "-w", str(workspace)],
    }
    with ExitStack() as stack:
        started = Deployment(home, f"http://127.0.0.1:{web}")
        for name, command in commands.items():
            stack.enter_context(_process(command, variables, home / f"{name}.log"))
            if name == "code-server":
                wait(lambda: _listens(code), START_SECONDS, "the code server")
            if name == "webserver":
                wait(lambda: _is_up(f"http://127.0.0.1:{web}/server_info"), START_SECONDS, "the webserver")
        yield started


@contextmanager
def _process(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    program = str(Path(sys.executable).parent / command[0])
    with log.open("w") as file:
        process = subprocess.Popen(
            [program, *command[1:]], env=environment, cwd=ROOT, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        DeploymentError: it does not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DeploymentError(f"{what} is not ready after {seconds:.0f} s")
        time.sleep(1)


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
