"""A stand-in for a Kubernetes API server: as much of the pods API as a Pipes client uses.

A pod's command really runs, as a subprocess of the server's process; its output is served as the pod's log, with
timestamps, while it runs. Volumes are not mounted: pod and test see the same file system anyway.
"""

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate
from aiohttp import web

KUBERNETES_VERSION = "1.32"
_PODS = "/api/v1/namespaces/{namespace}/pods"
_LONGEST_LINE = 1 << 24

Json = dict[str, Any]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")


@dataclass
class Pod:
    """A pod: what was asked for and how far its command is."""

    body: Json
    started_at: str | None = None
    finished_at: str | None = None
    exit_code: int | None = None
    log: list[tuple[str, str]] = field(default_factory=list)
    """(timestamp, line without its end) in order; no two timestamps are the same."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    process: asyncio.subprocess.Process | None = None

    @property
    def container(self) -> Json:
        container: Json = self.body["spec"]["containers"][0]
        return container

    def matches(self, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        metadata = self.body["metadata"]
        named = fields.get("metadata.name", metadata["name"]) == metadata["name"]
        return named and all(metadata.get("labels", {}).get(key) == value for key, value in labels.items())

    async def run(self, environment: Mapping[str, str]) -> None:
        """Run the command to its end; what cannot be started ends like a container that cannot: with exit code 128."""
        command = [*self.container.get("command", []), *self.container.get("args", [])]
        variables = {entry["name"]: entry.get("value", "") for entry in self.container.get("env", [])}
        self.started_at = _now()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env={**environment, **variables},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LONGEST_LINE,
            )
        except OSError as error:
            await self._append(f"cannot start {command[0]}: {error}")
            self.exit_code = 128
        else:
            assert self.process.stdout is not None
            async for line in self.process.stdout:
                await self._append(line.decode(errors="replace").rstrip("\n"))
            code = await self.process.wait()
            self.exit_code = code if code >= 0 else 128 - code
        self.finished_at = _now()
        async with self.changed:
            self.changed.notify_all()

    async def _append(self, line: str) -> None:
        moment = _now()
        while self.log and moment <= self.log[-1][0]:
            await asyncio.sleep(1e-6)
            moment = _now()
        self.log.append((moment, line))
        async with self.changed:
            self.changed.notify_all()

    async def lines(self, *, follow: bool) -> AsyncIterator[tuple[str, str]]:
        """The log from its beginning; with `follow` until the command has ended."""
        served = 0
        while True:
            for entry in self.log[served:]:
                yield entry
                served += 1
            async with self.changed:
                if served < len(self.log):
                    continue
                if self.exit_code is not None or not follow:
                    return
                await self.changed.wait()

    def view(self) -> Json:
        """The pod as the API shows it."""
        state: Json
        if self.started_at is None:
            phase, state = "Pending", {"waiting": {"reason": "ContainerCreating"}}
        elif self.exit_code is None:
            phase, state = "Running", {"running": {"startedAt": self.started_at}}
        else:
            phase = "Succeeded" if self.exit_code == 0 else "Failed"
            ended = {"exitCode": self.exit_code, "startedAt": self.started_at, "finishedAt": self.finished_at}
            state = {"terminated": {**ended, "reason": "Completed" if self.exit_code == 0 else "Error"}}
        container = {
            "name": self.container["name"],
            "image": self.container["image"],
            "imageID": "stand-in",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        status = {"phase": phase, "containerStatuses": [container]}
        return {**self.body, "apiVersion": "v1", "kind": "Pod", "status": status}


class StandIn:
    """The API server; `pods` are those that exist, `created` all that ever did."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.pods: dict[tuple[str, str], Pod] = {}
        self.created: list[Json] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def serving(self) -> Iterator["StandIn"]:
        """Serve on a free loopback port, in a thread; every pod's command is ended afterwards."""
        loop, ready = asyncio.new_event_loop(), threading.Event()
        thread = threading.Thread(target=self._serve, args=(loop, ready), name="kubernetes-stand-in")
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _serve(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        application = web.Application(client_max_size=_LONGEST_LINE)
        application.add_routes(
            [
                web.post(_PODS, self._create),
                web.get(_PODS, self._list),
                web.get(_PODS + "/{name}", self._read),
                web.get(_PODS + "/{name}/log", self._log),
                web.delete(_PODS + "/{name}", self._delete),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=1.0)
        loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        ready.set()
        loop.run_forever()
        for pod in self.pods.values():
            _end(pod)
        loop.run_until_complete(asyncio.gather(*self._tasks))
        loop.run_until_complete(runner.cleanup())
        loop.close()

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        try:
            kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **body}, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return _status(422, "Invalid", str(error.message))
        namespace, name = request.match_info["namespace"], body["metadata"]["name"]
        body["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        pod = self.pods[namespace, name] = Pod(body)
        self.created.append(body)
        task = asyncio.get_running_loop().create_task(pod.run(self.environment))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return web.json_response(pod.view(), status=201)

    async def _list(self, request: web.Request) -> web.Response:
        labels, fields = (_selector(request.query.get(name, "")) for name in ("labelSelector", "fieldSelector"))
        namespace = request.match_info["namespace"]
        found = [
            pod.view() for (where, _), pod in self.pods.items() if where == namespace and pod.matches(labels, fields)
        ]
        return web.json_response({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": found})

    async def _read(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        return _status(404, "NotFound") if pod is None else web.json_response(pod.view())

    async def _log(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        if pod is None:
            return _status(404, "NotFound")
        follow, timestamps = (request.query.get(name, "").lower() == "true" for name in ("follow", "timestamps"))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        with suppress(ConnectionResetError):
            async for moment, line in pod.lines(follow=follow):
                await response.write((f"{moment} {line}\n" if timestamps else f"{line}\n").encode())
            await response.write_eof()
        return response

    async def _delete(self, request: web.Request) -> web.Response:
        pod = self._pod(request)
        if pod is None:
            return _status(404, "NotFound")
        del self.pods[request.match_info["namespace"], request.match_info["name"]]
        _end(pod)
        return web.json_response(pod.view())

    def _pod(self, request: web.Request) -> Pod | None:
        return self.pods.get((request.match_info["namespace"], request.match_info["name"]))


def _end(pod: Pod) -> None:
    if pod.process is not None and pod.exit_code is None:
        with suppress(ProcessLookupError):
            pod.process.terminate()


def _selector(text: str) -> dict[str, str]:
    return dict(term.split("=", 1) for term in text.split(",") if term)


def _status(code: int, reason: str, message: str = "") -> web.Response:
    body = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message}
    return web.json_response({**body, "code": code}, status=code)
