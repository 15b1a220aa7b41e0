"""Files in object storage by name, below one prefix of one bucket: the few requests that a store is made of.

Credentials, region and endpoint are found as obstore finds them (environment variables, web identity, instance
metadata, Google's application default credentials); nothing of that is kept here.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import GCSStore, S3Store

from bai_pipeline.errors import StoreError, StoreUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

PIECE = 8 * 1024 * 1024
"""Bytes of a request of a large transfer."""
REQUESTS = 8
"""At a time, of one transfer: a connection alone gives some 100 MB/s."""
FILES = 4
"""Uploads at a time: each of a large file holds REQUESTS pieces."""
_MAX_PARTS = 9_000
"""S3 takes 10,000 parts an upload."""
_SHOWN = 300
_NO_BUCKET = "NoSuchBucket"

Version = Mapping[str, str]
"""What tells one content of a file from another: its ETag, on Google its generation too."""


@dataclass(frozen=True)
class Entry:
    """A file as a listing has it."""

    name: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Bucket:
    """The files below `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`."""

    location: str

    def get(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        found = self.get_version(name)
        return None if found is None else found[0]

    def get_version(self, name: str) -> tuple[bytes, Version] | None:
        """The content of a small file and its version; None if there is none."""
        with self._asked(name, "read"):
            try:
                result = obstore.get(self._client, name)
                return result.bytes().to_bytes(), _version(result.meta)
            except FileNotFoundError as error:
                _refuse_no_bucket(error)
                return None

    def put(self, name: str, content: bytes) -> None:
        """Write a small file, in place of any other."""
        with self._asked(name, "written"):
            obstore.put(self._client, name, content, use_multipart=False)

    def put_new(self, name: str, content: bytes) -> Version | None:
        """Write a small file that must not be there yet; None if it is."""
        with self._asked(name, "written"):
            try:
                return _version(obstore.put(self._client, name, content, mode="create"))
            except AlreadyExistsError:
                return None

    def replace(self, name: str, content: bytes, version: Version) -> Version | None:
        """Write a small file in place of this version of it; None if it has another one, or is not there."""
        with self._asked(name, "written"):
            try:
                return _version(obstore.put(self._client, name, content, mode=cast("obstore.UpdateVersion", version)))
            except (PreconditionError, FileNotFoundError) as error:
                _refuse_no_bucket(error)
                return None

    def upload(self, name: str, path: Path) -> None:
        """Write a file of any size, in parts; it is there whole or not at all."""
        piece = max(PIECE, path.stat().st_size // _MAX_PARTS)
        with self._asked(name, "written"):
            obstore.put(self._client, name, path, chunk_size=piece, max_concurrency=REQUESTS)

    def read(self, name: str, start: int, length: int) -> memoryview:
        """Bytes of a file.

        Raises:
            StoreError: absent, or it ends before.
        """
        if not length:
            return memoryview(b"")
        with self._asked(name, "read"):
            content = memoryview(obstore.get_range(self._client, name, start=start, length=length))
        if len(content) != length:
            raise StoreError(f"{self.location}/{name} gave {len(content)} bytes at {start}, expected {length}")
        return content

    def stream(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """Bytes of a file in order, some requests ahead: at most REQUESTS pieces are held."""
        pieces = [(at, min(PIECE, start + length - at)) for at in range(start, start + length, PIECE)]
        if len(pieces) < 2:
            yield from (self.read(name, *piece) for piece in pieces)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            ahead: deque[Future[memoryview]] = deque()
            waiting = iter(pieces)
            try:
                while True:
                    while len(ahead) < REQUESTS and (piece := next(waiting, None)) is not None:
                        ahead.append(pool.submit(self.read, name, *piece))
                    if not ahead:
                        return
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def list(self, prefix: str) -> Iterator[Entry]:
        """All files below a directory."""
        with self._asked(prefix, "listed"):
            for chunk in obstore.list(self._client, prefix.rstrip("/")):
                for meta in chunk:
                    yield Entry(meta["path"], meta["size"], meta["last_modified"])

    def delete(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are no matter."""
        with ThreadPoolExecutor(REQUESTS) as pool:
            for _ in pool.map(self._delete, names):
                pass

    def _delete(self, name: str) -> None:
        with self._asked(name, "removed"):
            try:
                obstore.delete(self._client, name)
            except FileNotFoundError as error:
                _refuse_no_bucket(error)

    @cached_property
    def _client(self) -> "ObjectStore":
        return _client_of(self.location, os.getpid())

    @contextmanager
    def _asked(self, name: str, what: str) -> Iterator[None]:
        """Name the file in whatever goes wrong.

        Raises:
            StoreError: there is no such file, or bucket.
            StoreUnavailable: the request failed, after the client had tried again where that can help.
        """
        try:
            yield
        except (BaseError, OSError) as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            final = isinstance(error, FileNotFoundError)
            if _NO_BUCKET in str(error):
                reason, final = "the bucket does not exist", True
            kind = StoreError if final else StoreUnavailable
            raise kind(f"{self.location}/{name} cannot be {what}: {reason}") from error


@cache
def _client_of(location: str, process: int) -> "ObjectStore":
    """A client, which keeps its connections; another one after a fork."""
    scheme, _, rest = location.partition("://")
    bucket, _, prefix = rest.partition("/")
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL")
    plain = any(os.environ.get(name, "").startswith("http://") for name in endpoints)
    options: ClientConfig = {"timeout": "120s", "connect_timeout": "10s", "allow_http": plain}
    client: ObjectStore
    if scheme == "gs":
        client = GCSStore(bucket, prefix=prefix or None, client_options=options)
    else:
        client = S3Store(bucket, prefix=prefix or None, client_options=options)
    return client


def _version(result: "obstore.PutResult | obstore.ObjectMeta") -> Version:
    return {key: value for key in ("e_tag", "version") if (value := result.get(key)) and value != "null"}  # type: ignore[misc]


def _refuse_no_bucket(error: Exception) -> None:
    """A bucket that is not there is a fault, where a file that is not is none."""
    if _NO_BUCKET in str(error):
        raise OSError(_NO_BUCKET) from error


def upload_all(bucket: Bucket, files: Sequence[tuple[str, Path]]) -> None:
    """Upload many files, some at a time."""
    with ThreadPoolExecutor(FILES) as pool:
        for _ in pool.map(lambda item: bucket.upload(*item), files):
            pass
