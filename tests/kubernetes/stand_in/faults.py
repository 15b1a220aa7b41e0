"""Faults to order: answers of the API server that are not what was asked for, and ends of pods."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from tests.kubernetes.stand_in.pods import Pod

Act = Callable[["Pod"], Awaitable[None]]


@dataclass
class ApiAnswer:
    """What some requests are answered instead."""

    method: str
    path: str
    """A regular expression that is searched for in the path."""
    status: int = 500
    """0: the connection is closed; -1: the request is carried out, and then the connection is closed."""
    message: str = "injected"
    reason: str = "Injected"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    """How many requests; the ones after them are answered truly."""
    after: int = 0
    """Requests that are answered truly before."""
    cut: int | None = None
    """Bytes of the true answer after which the connection is closed."""
    hang: float = 0.0
    """Seconds before the answer."""

    def applies(self, request: web.Request) -> bool:
        """Whether this request is one of them; counts it."""
        if self.times <= 0 or request.method != self.method or not re.search(self.path, request.path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class PodFault:
    """What happens to the next pod that is created: at once, or when its log has a line with a text."""

    act: Act
    when: str | None = None
    instead: bool = False
    """It happens instead of starting the container."""


def hold(reason: str, message: str = "", seconds: float | None = None) -> PodFault:
    """The container waits with this reason, for ever or so long."""

    async def act(pod: "Pod") -> None:
        await pod.hold({"waiting": {"reason": reason, "message": message}}, seconds)

    return PodFault(act, instead=True)


def unschedulable(message: str, seconds: float | None = None, reason: str = "Unschedulable") -> PodFault:
    """No node takes the pod, ever or so long."""

    async def act(pod: "Pod") -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        pod.conditions.append(condition)
        await pod.hold(None, seconds)
        pod.conditions.remove(condition)

    return PodFault(act, instead=True)


def evicted(when: str) -> PodFault:
    """A kubelet that is short of something ends the pod, with its grace."""

    async def act(pod: "Pod") -> None:
        await pod.end(reason="Evicted", message="The node was low on resource: ephemeral-storage.")

    return PodFault(act, when)


def preempted(when: str) -> PodFault:
    """The scheduler deletes the pod for one that counts more."""

    async def act(pod: "Pod") -> None:
        pod.disrupt("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")
        await pod.delete()

    return PodFault(act, when)


def drained(when: str) -> PodFault:
    """Its node is shut down with grace: the pod fails, and stays to be seen."""

    async def act(pod: "Pod") -> None:
        pod.disrupt("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.")
        await pod.end(reason="Terminated", message="Pod was terminated in response to imminent node shutdown.")

    return PodFault(act, when)


def node_lost(when: str, seconds: float | None = None) -> PodFault:
    """Its node dies; after some seconds (None: never) the node controller deletes the pod."""

    async def act(pod: "Pod") -> None:
        await pod.vanish(seconds)

    return PodFault(act, when)


def killed(when: str, reason: str = "OOMKilled") -> PodFault:
    """The kernel kills the container."""

    async def act(pod: "Pod") -> None:
        pod.container_reason = reason
        pod.kill()

    return PodFault(act, when)


def overdue(when: str) -> PodFault:
    """activeDeadlineSeconds is over."""

    async def act(pod: "Pod") -> None:
        await pod.end(
            reason="DeadlineExceeded", message="Pod was active on the node longer than the specified deadline"
        )

    return PodFault(act, when)


def deleted(when: str) -> PodFault:
    """Somebody deletes the pod."""

    async def act(pod: "Pod") -> None:
        await pod.delete()

    return PodFault(act, when)


def told_to_end(when: str) -> PodFault:
    """Something sends its process SIGTERM."""

    async def act(pod: "Pod") -> None:
        await pod.end()

    return PodFault(act, when)
