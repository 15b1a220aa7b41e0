"""A lease on a job in object storage: an object that its holder writes anew every few seconds.

Nobody's clock is believed. Who waits watches the object's version: if it stays the same for as long as a lease lasts,
by the waiter's own monotonic clock, the holder is gone, and the waiter replaces exactly that version. All writes are
conditional, so of several waiters one wins.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid

from bai_pipeline.errors import StoreError, StoreUnavailable
from bai_pipeline.store.bucket import Bucket, Version

LEASE_SECONDS = 60.0
"""What a job waits at most before it goes on where a machine was lost."""


class Lease:
    """Held from `acquire` to `release`; renewed by a thread in between."""

    def __init__(self, bucket: Bucket, name: str, cache: str, seconds: float = LEASE_SECONDS) -> None:
        """Ready to be acquired.

        Args:
            cache: names the directory whose lock the caller holds: another lease from there is of a process that ended.
        """
        self._bucket, self._name, self._seconds = bucket, name, seconds
        self.token = uuid.uuid4().hex
        """Names this holder."""
        self._text = {"token": self.token, "cache": cache, "host": socket.gethostname(), "process": os.getpid()}
        self._version: Version = {}
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self, logger: logging.Logger) -> None:
        """Wait until the job is ours.

        Raises:
            StoreError: the object storage ignores conditions, or cannot be reached.
        """
        told = False
        while True:
            version = self._bucket.put_new(self._name, self._content())
            if version is not None:
                break
            seen = self._bucket.get_version(self._name)
            if seen is None:
                continue
            if json.loads(seen[0])["cache"] == self._text["cache"] or (told and self._is_dead(seen[1])):
                version = self._bucket.replace(self._name, self._content(), seen[1])
                if version is not None:
                    break
            elif not told:
                logger.info(f"another process runs this very job, on {json.loads(seen[0])['host']}; waiting for it")
                told = True
        if self._bucket.put_new(self._name, self._content()) is not None:
            raise StoreError(
                f"{self._bucket.location} ignores conditional writes (If-None-Match), without which two machines could "
                "run the same job; use a directory on a shared volume as the store, or another object storage"
            )
        self._version = version
        self._thread.start()

    def release(self) -> None:
        """Give the job to whoever waits."""
        self._ended.set()
        self._thread.join()
        if self._lost is None and self._is_ours():
            self._bucket.delete([self._name])

    def check(self) -> None:
        """Raise StoreUnavailable if the lease was lost."""
        if self._lost is not None:
            raise StoreUnavailable(self._lost)

    def _is_dead(self, version: Version) -> bool:
        """Watch one version of the object for as long as a lease lasts; False as soon as there is another one."""
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._seconds / 12))
            seen = self._bucket.get_version(self._name)
            if seen is None or seen[1] != version:
                return False
        return True

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self._seconds / 4):
            try:
                version = self._bucket.replace(self._name, self._content(), self._version)
            except StoreError as error:
                if time.monotonic() - renewed > self._seconds:
                    self._lost = f"the lease on the job ran out, it could not be renewed: {error}"
                    return
                continue
            if version is None and not self._is_ours():
                self._lost = (
                    f"{self._bucket.location}/{self._name} is held by another process: this one had not renewed it in "
                    "time; nothing more was published"
                )
                return
            self._version = version or self._version
            renewed = time.monotonic()

    def _is_ours(self) -> bool:
        """Whether a write of ours came through although its answer was lost; its version is then taken over."""
        seen = self._bucket.get_version(self._name)
        if seen is None or json.loads(seen[0])["token"] != self.token:
            return False
        self._version = seen[1]
        return True

    def _content(self) -> bytes:
        """Another content every time: an ETag is a hash of it."""
        return json.dumps({**self._text, "renewal": uuid.uuid4().hex}).encode()
