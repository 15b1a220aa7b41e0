"""The API server: as much of it as a compute uses, with strict validation of what is created."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from tests.kubernetes.stand_in.faults import ApiAnswer, PodFault
from tests.kubernetes.stand_in.pods import LONGEST_LINE, Pod, identified, now
from tests.kubernetes.stand_in.schemas import fault_of
from tests.kubernetes.stand_in.trainjobs import INDEX, TrainJob

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PODS = "/api/v1/namespaces/{namespace}/pods"
_EVENTS = "/api/v1/namespaces/{namespace}/events"
QUEUE = "kueue.x-k8s.io/queue-name"
_TRAINJOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs"


class StandIn:
    """The API server; `pods` and `trainjobs` are those that exist, `created` all that were ever
    sent by clients."""

    def __init__(self, environment: Mapping[str, str], namespaces: frozenset[str] = frozenset({"default", "training"})):
        self.environment = dict(environment)
        self.namespaces = namespaces
        self.pods: dict[tuple[str, str], Pod] = {}
        self.trainjobs: dict[tuple[str, str], TrainJob] = {}
        self.created: list[Json] = []
        self.warnings: list[tuple[str, str]] = []
        """Reason and message of events that every pod has."""
        self.answers: list[ApiAnswer] = []
        self.pod_faults: list[list[PodFault]] = []
        """Faults of the next pods, in the order of their creation."""
        self.runtimes = {"torch-distributed"}
        self.queue_seconds = 1.5
        """How long Kueue holds a TrainJob that names a queue."""
        self.requests: list[tuple[str, str]] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for tests -----------------------------------------------------------------------------------------------------

    def running(self) -> list[int]:
        """Processes of pods that have not ended."""
        processes = [pod.process for pod in list(self.pods.values()) if pod.process is not None]
        return [process.pid for process in processes if process.returncode is None]

    @contextmanager
    def serving(self, port: int = 0) -> Iterator["StandIn"]:
        """Serve on a loopback port, in a thread; every pod's command is ended afterwards."""
        loop, ready = asyncio.new_event_loop(), threading.Event()
        thread = threading.Thread(target=self._serve, args=(loop, ready, port), name="kubernetes-stand-in")
        thread.start()
        ready.wait()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _serve(self, loop: asyncio.AbstractEventLoop, ready: threading.Event, port: int) -> None:
        asyncio.set_event_loop(loop)
        application = web.Application(client_max_size=LONGEST_LINE, middlewares=[self._inject])
        application.add_routes(
            [
                web.post(_PODS, self._create_pod),
                web.get(_PODS, self._list_pods),
                web.get(_PODS + "/{name}", self._read_pod),
                web.get(_PODS + "/{name}/log", self._log),
                web.delete(_PODS + "/{name}", self._delete_pod),
                web.get(_EVENTS, self._list_events),
                web.post(_TRAINJOBS, self._create_trainjob),
                web.get(_TRAINJOBS, self._list_trainjobs),
                web.get(_TRAINJOBS + "/{name}", self._read_trainjob),
                web.delete(_TRAINJOBS + "/{name}", self._delete_trainjob),
            ]
        )
        runner = web.AppRunner(application, shutdown_timeout=1.0)
        loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", port)
        loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        ready.set()
        loop.run_forever()
        for pod in self.pods.values():
            pod.kill()
        for task in self._tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        loop.run_until_complete(runner.cleanup())
        loop.close()

    @web.middleware
    async def _inject(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        for answer in self.answers:
            if not answer.applies(request):
                continue
            await asyncio.sleep(answer.hang)
            if answer.cut is not None:
                return await self._cut(request, handler, answer.cut)
            if answer.status == -1:
                await handler(request)
            if answer.status <= 0:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            return status(answer.status, answer.reason, answer.message, answer.headers)
        return await handler(request)

    async def _cut(self, request: web.Request, handler: Handler, size: int) -> web.StreamResponse:
        """The true answer, of which only some bytes arrive."""
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        assert isinstance(answer.body, bytes)
        partial = web.StreamResponse(headers={"Content-Length": str(len(answer.body) + 1)})
        await partial.prepare(request)
        await partial.write(answer.body[:size])
        assert request.transport is not None
        request.transport.close()
        return partial

    # -- pods ----------------------------------------------------------------------------------------------------------

    async def _create_pod(self, request: web.Request) -> web.Response:
        body = {"apiVersion": "v1", "kind": "Pod", **await request.json()}
        refused = self._refusal(request, body, self.pods)
        if refused is not None:
            return refused
        return web.json_response(self._start(body, request.match_info["namespace"]).view(), status=201)

    def _start(self, body: Json, namespace: str) -> Pod:
        body = identified(body, namespace)
        faults = self.pod_faults.pop(0) if self.pod_faults else []
        pod = Pod(body, lambda pod: self._forget(namespace, pod), faults)
        self.pods[namespace, pod.name] = pod
        if INDEX not in body["metadata"].get("labels", {}):
            self.created.append(body)
        self._later(pod.run(self.environment))
        return pod

    def _forget(self, namespace: str, pod: Pod) -> None:
        if self.pods.get((namespace, pod.name)) is pod:
            del self.pods[namespace, pod.name]

    async def _list_pods(self, request: web.Request) -> web.Response:
        labels, fields = (selector(request.query.get(name, "")) for name in ("labelSelector", "fieldSelector"))
        namespace = request.match_info["namespace"]
        found = [
            pod.view() for (where, _), pod in self.pods.items() if where == namespace and pod.matches(labels, fields)
        ]
        return listed("v1", "PodList", found)

    async def _read_pod(self, request: web.Request) -> web.Response:
        pod = self.pods.get(key(request))
        return status(404, "NotFound") if pod is None else web.json_response(pod.view())

    async def _log(self, request: web.Request) -> web.Response:
        pod = self.pods.get(key(request))
        if pod is None:
            return status(404, "NotFound")
        if pod.lost:
            return status(500, "InternalError", "Get https://node-1:10250/containerLogs: dial tcp: i/o timeout")
        if pod.started_at is None:
            return status(400, "BadRequest", f'container in pod "{pod.name}" is waiting to start')
        since = request.query.get("sinceSeconds")
        return web.Response(text=pod.lines(None if since is None else float(since)))

    async def _delete_pod(self, request: web.Request) -> web.Response:
        pod = self.pods.get(key(request))
        if pod is None:
            return status(404, "NotFound")
        self._later(pod.delete())
        await asyncio.sleep(0)
        return web.json_response(pod.view())

    async def _list_events(self, request: web.Request) -> web.Response:
        wanted = selector(request.query.get("fieldSelector", ""))
        about = {"kind": "Pod", "name": wanted.get("involvedObject.name")}
        events = [
            {"type": "Warning", "reason": reason, "message": message, "involvedObject": about, "lastTimestamp": now()}
            for reason, message in self.warnings
        ]
        return listed("v1", "EventList", events if about["name"] in {name for _, name in self.pods} else [])

    # -- TrainJobs -----------------------------------------------------------------------------------------------------

    async def _create_trainjob(self, request: web.Request) -> web.Response:
        body = await request.json()
        refused = self._refusal(request, body, self.trainjobs)
        if refused is not None:
            return refused
        namespace = request.match_info["namespace"]
        job = TrainJob(identified(body, namespace))
        self.trainjobs[namespace, job.name] = job
        self.created.append(job.body)
        runtime = body["spec"]["runtimeRef"]["name"]
        if runtime not in self.runtimes:
            job.fail("TrainingRuntimeNotSupported", f"{runtime} is not supported")
        else:
            self._later(self._start_nodes(job, namespace))
        return web.json_response(job.view(), status=201)

    async def _start_nodes(self, job: TrainJob, namespace: str) -> None:
        if QUEUE in job.body["metadata"]["labels"]:
            job.suspended = {"reason": "Suspended", "message": "TrainJob is suspended"}
            await asyncio.sleep(self.queue_seconds)
            job.suspended = None
        for node, pod_body in enumerate(job.pod_bodies()):
            if (fault := fault_of(pod_body)) is not None:
                job.fail("InvalidPod", fault)
                return
            job.pods[node] = self._start(pod_body, namespace)

    async def _list_trainjobs(self, request: web.Request) -> web.Response:
        labels = selector(request.query.get("labelSelector", ""))
        found = [
            job.view()
            for (where, _), job in self.trainjobs.items()
            if where == request.match_info["namespace"]
            and labels.items() <= job.body["metadata"].get("labels", {}).items()
        ]
        return listed("trainer.kubeflow.org/v1alpha1", "TrainJobList", found)

    async def _read_trainjob(self, request: web.Request) -> web.Response:
        job = self.trainjobs.get(key(request))
        return status(404, "NotFound") if job is None else web.json_response(job.view())

    async def _delete_trainjob(self, request: web.Request) -> web.Response:
        job = self.trainjobs.get(key(request))
        if job is None:
            return status(404, "NotFound")
        job.body["metadata"].setdefault("deletionTimestamp", "now")
        self._later(self._take_down(key(request), job))
        return web.json_response(job.view())

    async def _take_down(self, where: tuple[str, str], job: TrainJob) -> None:
        await asyncio.gather(*(pod.delete() for pod in job.pods.values()))
        self.trainjobs.pop(where, None)

    # -- of both -------------------------------------------------------------------------------------------------------

    def _refusal(
        self, request: web.Request, body: Json, existing: Mapping[tuple[str, str], object]
    ) -> web.Response | None:
        namespace, name = request.match_info["namespace"], body["metadata"]["name"]
        if namespace not in self.namespaces:
            return status(404, "NotFound", f'namespaces "{namespace}" not found')
        if (fault := fault_of(body)) is not None:
            return status(422, "Invalid", fault)
        if (namespace, name) in existing:
            return status(409, "AlreadyExists", f'"{name}" already exists')
        return None

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def key(request: web.Request) -> tuple[str, str]:
    return request.match_info["namespace"], request.match_info["name"]


def selector(text: str) -> dict[str, str]:
    return dict(term.split("=", 1) for term in text.split(",") if term)


def listed(version: str, kind: str, items: list[Json]) -> web.Response:
    return web.json_response({"apiVersion": version, "kind": kind, "metadata": {}, "items": items})


def status(code: int, reason: str, message: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message}
    return web.json_response({**body, "code": code}, status=code, headers=headers)
