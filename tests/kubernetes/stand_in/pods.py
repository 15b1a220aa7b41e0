"""Pods of the stand-in: a pod's command is a subprocess, its output the pod's log."""

import asyncio
import os
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.kubernetes.stand_in.faults import PodFault

LONGEST_LINE = 1 << 24
Json = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Pod:
    """A pod: what was asked for and how far its command is. Volumes are not mounted: all see one file system anyway."""

    body: Json
    gone: Callable[["Pod"], None]
    """Called when the API server forgets it."""
    faults: Sequence[PodFault] = ()
    started_at: str | None = None
    finished_at: str | None = None
    exit_code: int | None = None
    container_reason: str | None = None
    reason: str | None = None
    message: str | None = None
    waiting: Json | None = None
    lost: bool = False
    conditions: list[Json] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    """(timestamp, line without its end) in order; no two timestamps are the same."""
    process: asyncio.subprocess.Process | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def container(self) -> Json:
        container: Json = self.body["spec"]["containers"][0]
        return container

    @property
    def grace(self) -> float:
        return float(self.body["spec"].get("terminationGracePeriodSeconds", 30))

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        metadata = self.body["metadata"]
        named = fields.get("metadata.name", metadata["name"]) == metadata["name"]
        return named and all(metadata.get("labels", {}).get(key) == value for key, value in labels.items())

    async def run(self, environment: Mapping[str, str]) -> None:
        """Run the command to its end, after what is to happen instead; what cannot be started has exit code 128."""
        for fault in self.faults:
            if fault.instead:
                await fault.act(self)
        if self._is_over:
            return
        command = [*self.container.get("command", []), *self.container.get("args", [])]
        variables = {entry["name"]: entry.get("value", "") for entry in self.container.get("env", [])}
        self.started_at = now()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env={**environment, **variables},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=LONGEST_LINE,
                start_new_session=True,
                preexec_fn=_as_in_a_container,
            )
        except OSError as error:
            self.exit_code, self.container_reason = 128, "StartError"
            self.message = f"failed to start container: exec: {command[0]}: {error.strerror}"
        else:
            await self._read(self.process)
        self.finished_at = now()
        self._ended.set()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            await self._append(line)
            for fault in self.faults:
                if fault.when is not None and fault.when in line:
                    self._later(fault)
        code = await process.wait()
        self.exit_code = code if code >= 0 else 128 - code

    def _later(self, fault: PodFault) -> None:
        self.faults = [other for other in self.faults if other is not fault]
        task = asyncio.get_running_loop().create_task(self._act(fault))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, fault: PodFault) -> None:
        await fault.act(self)

    async def _append(self, line: str) -> None:
        moment = now()
        while self.log and moment <= self.log[-1][0]:
            await asyncio.sleep(1e-6)
            moment = now()
        self.log.append((moment, line))

    @property
    def _is_over(self) -> bool:
        return self.exit_code is not None or "deletionTimestamp" in self.body["metadata"]

    # -- what happens to it --------------------------------------------------------------------------------------------

    async def hold(self, waiting: Json | None, seconds: float | None) -> None:
        """Stay before the start of the container, so long or until it is deleted."""
        self.waiting = waiting
        waited = 0.0
        while not self._is_over and (seconds is None or waited < seconds):
            await asyncio.sleep(0.02)
            waited += 0.02
        self.waiting = None

    def disrupt(self, reason: str, message: str) -> None:
        self.conditions.append({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message})

    def kill(self) -> None:
        """SIGKILL to all of the container."""
        self._signal(signal.SIGKILL)

    async def end(self, reason: str | None = None, message: str | None = None) -> None:
        """SIGTERM, and SIGKILL after the grace; then the pod has failed for this reason."""
        self._signal(signal.SIGTERM)
        if self.process is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self.grace)
            self.kill()
            await self._ended.wait()
        if reason is not None:
            self.reason, self.message = reason, message
        if self.exit_code is None:
            self.exit_code = 137

    async def delete(self) -> None:
        """What DELETE does: the pod is there until its container has ended."""
        if "deletionTimestamp" in self.body["metadata"]:
            return
        self.body["metadata"]["deletionTimestamp"] = now()
        if not self.lost:
            await self.end()
            await asyncio.sleep(0.3)  # a kubelet needs a moment to tell; its log can be read until then
            self.gone(self)

    async def vanish(self, seconds: float | None) -> None:
        """Its node is gone, and its processes with it."""
        self.lost, self.reason, self.message = True, "NodeLost", "Node node-1 which was running pod is unresponsive"
        self.kill()
        if seconds is not None:
            await asyncio.sleep(seconds)
            self.disrupt("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
            await asyncio.sleep(0.3)
            self.gone(self)

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    os.killpg(self.process.pid, number)
                else:
                    self.process.send_signal(number)

    # -- what is seen of it --------------------------------------------------------------------------------------------

    def lines(self, since: float | None) -> str:
        """The log with time stamps, of the last seconds or whole."""
        start = (
            ""
            if since is None
            else datetime.fromtimestamp(datetime.now(UTC).timestamp() - since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        )
        return "".join(f"{moment} {line}\n" for moment, line in self.log if moment >= start)

    def view(self) -> Json:
        """The pod as the API shows it."""
        status: Json = {"phase": self._phase, "conditions": list(self.conditions)}
        for name, value in (("reason", self.reason), ("message", self.message)):
            if value is not None and self.container_reason is None:
                status[name] = value
        if (state := self._state) is not None:
            status["containerStatuses"] = [
                {
                    "name": self.container["name"],
                    "image": self.container["image"],
                    "imageID": "stand-in",
                    "ready": self._phase == "Running",
                    "restartCount": 0,
                    "state": state,
                }
            ]
        return {**self.body, "apiVersion": "v1", "kind": "Pod", "status": status}

    @property
    def _phase(self) -> str:
        if self.lost:
            return "Unknown"
        if self.exit_code is None:
            return "Pending" if self.started_at is None else "Running"
        return "Succeeded" if self.exit_code == 0 and self.reason is None else "Failed"

    @property
    def _state(self) -> Json | None:
        if self.lost or (self.exit_code is None and self.started_at is not None):
            return {"running": {"startedAt": self.started_at}}
        if self.exit_code is None:
            unscheduled = any(condition["type"] == "PodScheduled" for condition in self.conditions)
            return None if unscheduled else self.waiting or {"waiting": {"reason": "ContainerCreating"}}
        if self.started_at is None:
            return None
        ended: Json = {"exitCode": self.exit_code, "startedAt": self.started_at, "finishedAt": self.finished_at}
        reason = self.container_reason or ("Completed" if self.exit_code == 0 else "Error")
        told = {"message": self.message} if self.container_reason and self.message else {}
        return {"terminated": {**ended, "reason": reason, **told}}


def _as_in_a_container() -> None:
    """No signal is ignored, whatever the process of the tests ignores."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def identified(body: Json, namespace: str) -> Json:
    """A manifest with what the API server adds to it."""
    metadata = {**body["metadata"], "namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
    return {**body, "metadata": metadata}
