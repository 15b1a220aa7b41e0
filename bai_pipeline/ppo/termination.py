"""SIGTERM: what an orchestrator sends before it kills, as when a pod is evicted."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Termination:
    """Whether this process was told to end."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def noticed(self) -> Iterator["Termination"]:
        """Inside, SIGTERM only sets `requested`. In a thread other than the main one nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._request)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
