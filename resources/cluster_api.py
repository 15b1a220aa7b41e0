"""Requests to the API server of a cluster: what passes is tried again, what does not pass says what to change."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import kubernetes.client
import kubernetes.config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from bai_pipeline.errors import ComputeError
from resources.cluster_settings import ClusterSettings

Json = dict[str, Any]
PASSING = frozenset({408, 410, 429, 500, 502, 503, 504})
"""Status codes of a server that may answer the same question later (410: an expired list, asked for anew)."""
_LONGEST_PAUSE = 30.0
_QUOTA = "exceeded quota"


class Resource(NamedTuple):
    """A kind of object, by its place in the API."""

    prefix: str
    plural: str
    kind: str


PODS = Resource("/api/v1", "pods", "Pod")
EVENTS = Resource("/api/v1", "events", "Event")
TRAINJOBS = Resource("/apis/trainer.kubeflow.org/v1alpha1", "trainjobs", "TrainJob")


RIGHTS = frozenset(
    {
        *((resource, verb) for resource in ("pods", "trainjobs") for verb in ("create", "get", "list", "delete")),
        ("pods/log", "get"),
        ("events", "list"),
    }
)
"""All that is ever asked of an API server: what a role has to grant (trainjobs only to compute of that kind)."""


class ApiFault(Exception):
    """The API server refused a request, or did not answer for too long.

    `final`: the same request would be refused again. `silent`: the server did not answer, so nothing is known of what
    runs. `quota`: there is no room now.
    """

    def __init__(self, message: str, *, final: bool = False, silent: bool = False, quota: bool = False) -> None:
        super().__init__(message)
        self.final, self.silent, self.quota = final, silent, quota


class AlreadyExistsError(Exception):
    """An object of this name is there."""


class Cluster:
    """The objects of one namespace."""

    def __init__(self, settings: ClusterSettings) -> None:
        """
        Raises:
            ComputeError: no cluster is configured.
        """
        self._settings = settings
        self.namespace = settings.namespace
        self._client = _connect(settings)

    def create(self, resource: Resource, body: Json) -> Json:
        """
        Raises:
            AlreadyExistsError: the name is taken; also after an answer that was lost on its way.
            ApiFault: see there.
        """
        created: Json = json.loads(self._ask("create", "POST", resource, body=body))
        return created

    def get(self, resource: Resource, name: str) -> Json | None:
        """An object; None: there is none of this name."""
        try:
            found: Json = json.loads(self._ask("get", "GET", resource, name))
        except _NotFoundError:
            return None
        return found

    def find(
        self, resource: Resource, labels: Mapping[str, str] | None = None, fields: Mapping[str, str] | None = None
    ) -> list[Json]:
        """The objects with these labels and fields."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {name: ",".join(f"{k}={v}" for k, v in chosen.items()) for name, chosen in selectors.items() if chosen}
        items: list[Json] = json.loads(self._ask("list", "GET", resource, query=query))["items"]
        return items

    def delete(self, resource: Resource, name: str) -> None:
        """Ask for the end of an object, with its own grace; what is not there is not missed.

        A TrainJob's pods are deleted before it (foreground), so that none outlives it unseen.
        """
        try:
            self._ask("delete", "DELETE", resource, name, query={"propagationPolicy": "Foreground"})
        except _NotFoundError:
            return

    def log(self, pod: str, container: str, since: int | None, attempts: int = 1) -> str | None:
        """What a container wrote in the last `since` seconds (None: from its start), a time stamp before each line.

        None: there is no log (yet, or any more), or it cannot be read now: a node that is lost cannot be asked.
        """
        query = {"container": container, "timestamps": "true"} | ({} if since is None else {"sinceSeconds": str(since)})
        try:
            answer = self._ask("get", "GET", PODS, f"{pod}/log", query=query, attempts=attempts)
        except (_NotFoundError, _NotYetError):
            return None
        except ApiFault as fault:
            if fault.silent:
                return None
            raise
        return answer.decode("utf-8", errors="replace")

    def warnings(self, name: str) -> list[str]:
        """What the cluster says of an object that does not get on: the messages of its warning events, newest last."""
        try:
            events = self.find(EVENTS, fields={"involvedObject.name": name, "type": "Warning"})
        except ApiFault as fault:
            return [str(fault)]
        events.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return [f"{event.get('reason', '')}: {event.get('message', '')}" for event in events]

    def _ask(
        self,
        verb: str,
        method: str,
        resource: Resource,
        name: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        attempts: int | None = None,
    ) -> bytes:
        """The answer to a request, which is repeated while the server may yet answer, or so many times."""
        what = f"{verb} {resource.plural}{'/log' if name and name.endswith('/log') else ''}"
        path = f"{resource.prefix}/namespaces/{self.namespace}/{resource.plural}" + (f"/{name}" if name else "")
        silent_since: float | None = None
        tries = 0
        pause = min(self._settings.poll_interval, 1.0)
        while True:
            try:
                return self._request(method, path, query or {}, body)
            except ApiException as error:
                if error.status not in PASSING:
                    raise self._refusal(what, resource, error) from error
                said, wait = _said(error), _retry_after(error)
            except HTTPError as error:
                said, wait = str(error), None
            now = time.monotonic()
            silent_since = silent_since or now
            tries += 1
            if now - silent_since > self._settings.api_timeout or tries == attempts:
                raise ApiFault(
                    f"the API server did not {what} in namespace {self.namespace} for "
                    f"{self._settings.api_timeout:.0f} s: {said}",
                    silent=True,
                )
            time.sleep(pause if wait is None else wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _request(self, method: str, path: str, query: Mapping[str, str], body: Json | None) -> bytes:
        answer = self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json, */*"},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=self._settings.request_timeout,
        )
        try:
            content: bytes = answer.data
        finally:
            answer.release_conn()
        return content

    def _refusal(self, what: str, resource: Resource, error: ApiException) -> Exception:
        said = _said(error)
        where = f"in namespace {self.namespace}"
        match error.status:
            case 404 if what.startswith("create"):
                return ApiFault(
                    f"cannot {what} {where}: {said} (is there such a namespace, and {resource.plural} in the cluster?)",
                    final=True,
                )
            case 404:
                return _NotFoundError()
            case 400 if what == "get pods/log":
                return _NotYetError()
            case 409:
                return AlreadyExistsError(said)
            case 401:
                return ApiFault(f"the API server does not know who asks (401) to {what} {where}: {said}", final=True)
            case 403 if _QUOTA in said:
                return ApiFault(f"no room to {what} {where}: {said}", quota=True)
            case 403:
                return ApiFault(f"the right to {what} {where} is missing (403): {said}", final=True)
            case status:
                return ApiFault(f"the API server refused to {what} {where} ({status}): {said}", final=True)


class _NotFoundError(Exception):
    """404: no such object."""


class _NotYetError(Exception):
    """400 from a log: its container has not started."""


def _said(error: ApiException) -> str:
    """The message of a refusal: of its Status object, if it has one."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _retry_after(error: ApiException) -> float | None:
    value = (error.headers or {}).get("Retry-After", "")
    return min(float(value), 10 * _LONGEST_PAUSE) if value.isdigit() else None


def _connect(settings: ClusterSettings) -> kubernetes.client.ApiClient:
    """A client of the cluster that the settings name: the kubeconfig, else the pod's own service account, else the
    user's default kubeconfig."""
    configuration = kubernetes.client.Configuration()
    named = settings.kubeconfig is not None or settings.kube_context is not None
    load: Callable[[], None]
    if not named and "KUBERNETES_SERVICE_HOST" in os.environ:
        load = partial(kubernetes.config.load_incluster_config, client_configuration=configuration)
    else:
        load = partial(
            kubernetes.config.load_kube_config,
            config_file=str(settings.kubeconfig) if settings.kubeconfig else None,
            context=settings.kube_context,
            client_configuration=configuration,
        )
    try:
        load()
    except kubernetes.config.ConfigException as error:
        raise ComputeError(f"compute is a cluster, but none is configured: {error}") from error
    configuration.retries = False  # `_ask` repeats, and knows what
    if configuration.no_proxy is None:  # the client reads NO_PROXY and forgets it
        configuration.no_proxy = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    return kubernetes.client.ApiClient(configuration)


def seconds_since(moment: float) -> int:
    """Whole seconds since a moment of the monotonic clock, rounded up."""
    return math.ceil(time.monotonic() - moment)
