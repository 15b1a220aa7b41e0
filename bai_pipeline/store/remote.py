"""The store in object storage, with a cache directory on this machine.

    objects/KIND/DIGEST/…        files of an object; .files.json, its table, is written last: then the object is there
    refs/…json                   replaced by one request
    jobs/IDENTITY/…              specification, result, log, and the state of work/ (`snapshots`)

Whoever opens an object gets it in the cache, fetched and verified as it comes. Jobs work in the cache too; what of
their state has to survive the machine is uploaded when they say so (`Claim.save`).
"""

import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bai_pipeline.errors import StoreError, StoreUnavailable
from bai_pipeline.store.bucket import Bucket
from bai_pipeline.store.bucket_objects import BucketObjects, garbage_of, name_of
from bai_pipeline.store.claims import Claim, locked
from bai_pipeline.store.integrity import check_files, remember_files
from bai_pipeline.store.lease import LEASE_SECONDS, Lease
from bai_pipeline.store.objects import TABLE_NAME, ObjectTable
from bai_pipeline.store.ranged import write_ranged_directory
from bai_pipeline.store.refs import Ref
from bai_pipeline.store.snapshots import Snapshots
from bai_pipeline.store.store import DAY, Store

_COPIES = ("objects", "partial", "ranged")
"""Directories of the cache that hold what the bucket has: objects, single files of some, and their tensors' headers."""


def open_remote_store(location: str) -> "RemoteStore":
    """The store below `s3://…` or `gs://…`, with its cache below `BAI_STORE_CACHE`."""
    location = location.rstrip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{endpoint} {location}".encode()).hexdigest()[:12]
    name = location.replace("://", "-").replace("/", "-")
    return RemoteStore(_cache_directory() / f"{name}-{digest}", Bucket(location))


def _cache_directory() -> Path:
    own = os.environ.get("BAI_STORE_CACHE")
    if own:
        return Path(own).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bai_pipeline"


@dataclass(frozen=True)
class RemoteStore(Store):
    """A prefix of a bucket that holds every artefact of every study; `root` is its cache."""

    bucket: Bucket
    lease_seconds: float = LEASE_SECONDS

    @property
    def location(self) -> str:
        return self.bucket.location

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "BAI_STORE_CACHE": str(self.root.parent)}

    @property
    def _there(self) -> BucketObjects:
        return BucketObjects(self.bucket)

    # -- objects -----------------------------------------------------------------------------------------------------

    def publish(self, kind: str, directory: Path) -> str:
        """Upload a staged directory, its table last; the copy here becomes the cache's. Equal content is there once."""
        table = ObjectTable.of(directory)
        uri = f"store:objects/{kind}/{table.digest}"
        try:
            self._there.check(uri, self._known(uri))
        except StoreUnavailable:
            raise
        except StoreError:  # not there yet, or damaged since: replaced by the same content
            self._there.upload(uri, table, directory)
        self._place(uri, table, directory)
        return uri

    def open(self, uri: str, *, skip: Sequence[str] = ()) -> Path:
        if not uri.startswith("store:"):
            return super().open(uri)
        top, inside = self._split(uri)
        local = self.path(top)
        if local.is_dir():
            try:
                self._check(top, local, every_byte=False)
            except StoreError:
                self._remove(local)  # fetched again
            else:
                os.utime(local)
                if not (local / inside).is_dir():
                    raise StoreError(f"{uri} is not in the store (looked in {self.location})")
                return local / inside
        table = self._table(top)
        starts = tuple(f"{name.strip('/')}/" for name in skip)
        files = {name: e for name, e in table.files.items() if name.startswith(inside) and not name.startswith(starts)}
        if not files:
            raise StoreError(f"{uri} is not in the store (looked in {self.location})")
        if len(files) < len(table.files):
            return self._fetch_some(top, files) / inside
        self._fetch_whole(top, table)
        return local

    def peek(self, uri: str, *names: str) -> Path:
        if not uri.startswith("store:"):
            return super().open(uri)
        top, inside = self._split(uri)
        table = self._there.check(top, self._known(top))
        absent = [name for name in names if inside + name not in table.files]
        if absent:
            raise StoreError(f"{uri} holds no {', '.join(absent)}")
        return self._fetch_some(top, {inside + name: table.files[inside + name] for name in names}) / inside

    def open_tensors(self, uri: str, manifest: str) -> Path:
        if not uri.startswith("store:"):
            return super().open(uri)
        top, inside = self._split(uri)
        if self.path(top).is_dir():
            return self.open(uri)
        table = self._table(top)
        if inside + manifest not in table.files:
            return self.open(uri)
        place = f"{top}/{inside}".removeprefix("store:objects/").rstrip("/").split("/", 2)
        directory = self.root / "ranged" / place[0] / ".".join(place[1:]).replace("/", ".")
        if directory.is_dir():
            os.utime(directory)
            return directory
        with self.staging() as staged:
            files = {name.removeprefix(inside): entry for name, entry in table.files.items() if name.startswith(inside)}
            write_ranged_directory(self.bucket, f"{name_of(top)}/{inside}", files, staged)
            _rename(staged, directory)
        return directory

    def verify(self, uri: str) -> None:
        """Read every byte of an object in the bucket and compare it with its table; nothing is kept here."""
        top, _ = self._split(uri)
        for name, entry in self._there.check(top, self._known(top)).files.items():
            self._there.check_bytes(top, name, entry)

    def digest(self, uri: str) -> str:
        top, inside = self._split(uri)
        table = self._table(top)
        return table.below(inside).digest if inside else table.digest

    def objects(self) -> list[str]:
        return self._there.all()

    def collect_garbage(self, *, older_than: float = DAY, dry_run: bool = False) -> list[str]:
        """Remove the objects that no ref names, and what interrupted uploads left; copies of them here, too.

        Parts of an upload that was cut within a file are out of sight: a rule of the bucket removes them (see guide).
        """
        latest = datetime.fromtimestamp(time.time() - older_than, UTC)
        listed = self._there.listed("objects", 3)  # before the refs: what is published meanwhile is no candidate
        named = {self._object_of(ref.object) for _, ref in self.refs() if ref.object.startswith("store:")}
        garbage, tables, names = garbage_of(listed, named, latest)
        names += self._there.leftovers(latest)
        if dry_run:
            return garbage
        self.bucket.delete(tables)  # without them the objects are absent
        self.bucket.delete(names)
        for uri in garbage:
            for place in _COPIES:
                for copy in (self.root / place).glob(f"{uri.removeprefix('store:objects/')}*"):
                    shutil.rmtree(copy)
        for leftover_here in (self.root / "staging").glob("*"):
            if leftover_here.stat().st_mtime <= latest.timestamp():
                shutil.rmtree(leftover_here)
        return garbage

    def evict(self, *, older_than: float = DAY) -> list[Path]:
        latest = time.time() - older_than
        copies = [copy for place in _COPIES for copy in sorted((self.root / place).glob("*/*"))]
        old = [copy for copy in copies if copy.stat().st_mtime <= latest]
        for copy in old:
            self._remove(copy)
        return old

    # -- small files -------------------------------------------------------------------------------------------------

    def read_text(self, name: str) -> str | None:
        content = self.bucket.get(name)
        return None if content is None else content.decode()

    def write_text(self, name: str, text: str) -> None:
        self.bucket.put(name, text.encode())
        if name.startswith("jobs/"):
            super().write_text(name, text)  # for who watches the job here

    def remove_text(self, name: str) -> None:
        self.bucket.delete([name])
        super().remove_text(name)

    def refs(self) -> Iterator[tuple[Path, Ref]]:
        for entry in sorted(self.bucket.list("refs"), key=lambda entry: entry.name):
            text = self.read_text(entry.name)
            if text is not None:
                yield Path(entry.name), Ref.from_json(text, f"{self.location}/{entry.name}")

    # -- jobs --------------------------------------------------------------------------------------------------------

    def job_directory(self, identity: str) -> Path:
        """Where a job works on this machine; with its log, if other machines had a part in it."""
        path = self.root / "jobs" / identity
        if not path.is_dir():
            log = self.bucket.get(f"jobs/{identity}/log.txt")
            super().job_directory(identity)
            if log is not None:
                (path / "log.txt").write_bytes(log)
        return path

    @contextmanager
    def claim(self, identity: str, logger: logging.Logger) -> Iterator[Claim]:
        directory, prefix = self.job_directory(identity), f"jobs/{identity}"
        with locked(directory / "lock", logger):
            lease = Lease(self.bucket, f"{prefix}/lease.json", self._cache_id(), self.lease_seconds)
            lease.acquire(logger)
            try:
                snapshots = Snapshots(self.bucket, prefix, directory)
                snapshots.restore()
                attempts, own = self.bucket.get(f"{prefix}/attempts.jsonl") or b"", directory / "attempts.jsonl"
                if attempts and (not own.is_file() or own.stat().st_size < len(attempts)):
                    own.write_bytes(attempts)
                (directory / _TOKEN).write_text(lease.token, encoding="utf-8")
                yield RemoteClaim(directory, self.bucket, prefix, lease, snapshots)
            finally:
                lease.release()

    def keep_log(self, identity: str) -> None:
        log = self.root / "jobs" / identity / "log.txt"
        if log.is_file():
            self.bucket.upload(f"jobs/{identity}/log.txt", log)

    def check_shared(self, identity: str) -> None:
        lease = self.bucket.get(f"jobs/{identity}/lease.json") or b""
        token = self.root / "jobs" / identity / _TOKEN
        if not token.is_file() or token.read_text(encoding="utf-8") not in lease.decode():
            raise StoreError(
                f"the first rank of job {identity} does not work in {self.root}: the ranks of a job need one cache "
                "directory; let BAI_STORE_CACHE be on a volume that all nodes share"
            )

    def _cache_id(self) -> str:
        """Names this cache directory, so that a lease of a process that worked in it can be told."""
        path = self.root / "cache" / "id"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            own = path.with_name(f".id.{uuid.uuid4().hex}")
            own.write_text(uuid.uuid4().hex, encoding="utf-8")
            with suppress(FileExistsError):
                path.hardlink_to(own)  # the first one stays
            own.unlink()
        return path.read_text(encoding="utf-8")

    # -- fetching ----------------------------------------------------------------------------------------------------

    def _split(self, uri: str) -> tuple[str, str]:
        """The object, and the directory inside it with a slash at its end ("" for all of it)."""
        top = self._object_of(uri)
        inside = uri.removeprefix(top).strip("/")
        return top, f"{inside}/" if inside else ""

    def _known(self, top: str) -> ObjectTable | None:
        """The table of an object's copy here, if there is one that was not altered."""
        if not (self.path(top) / TABLE_NAME).is_file():
            return None
        table = ObjectTable.read(self.path(top))
        return table if top.endswith(f"/{table.digest}") else None

    def _table(self, top: str) -> ObjectTable:
        """What an object consists of; raises StoreError as `BucketObjects.table` does."""
        return self._known(top) or self._there.table(top)

    def _fetch_whole(self, top: str, table: ObjectTable) -> None:
        with self.staging() as staged:
            self._there.download(top, table.files, staged)
            (staged / TABLE_NAME).write_text(table.to_json(), encoding="utf-8")
            remember_files(staged, table.files, self._memory(top))
            _rename(staged, self.path(top))

    def _fetch_some(self, top: str, files: Mapping[str, tuple[int, str]]) -> Path:
        """Single files of an object, each of them verified; the directory that holds them."""
        local = self.path(top)
        if local.is_dir():
            try:
                check_files(top, local, files, self._memory(top), every_byte=False)
            except StoreError:
                self._remove(local)
            else:
                return local
        key = top.removeprefix("store:objects/")
        directory, memory = self.root / "partial" / key, self.root / "cache" / f"partial-{key.replace('/', '-')}.json"
        missing = {}
        for name, entry in files.items():
            try:
                check_files(top, directory, {name: entry}, memory, every_byte=False)
            except StoreError:
                missing[name] = entry
        directory.mkdir(parents=True, exist_ok=True)
        if missing:
            with self.staging() as staged:
                self._there.download(top, missing, staged)
                for name in missing:
                    (directory / name).parent.mkdir(parents=True, exist_ok=True)
                    (staged / name).replace(directory / name)
            remember_files(directory, missing, memory)
        os.utime(directory)
        return directory


_TOKEN = "lease.token"


@dataclass(frozen=True)
class RemoteClaim:
    """A job that this process holds by a lease."""

    directory: Path
    bucket: Bucket
    prefix: str
    lease: Lease
    snapshots: Snapshots

    def save(self) -> None:
        self.lease.check()
        self.snapshots.save()

    def keep(self, name: str) -> None:
        self.bucket.upload(f"{self.prefix}/{name}", self.directory / name)

    def check(self) -> None:
        self.lease.check()


def _rename(directory: Path, destination: Path) -> None:
    """Give a directory its place, unless another process was first: it has the same content."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.rename(destination)
    except OSError:
        if not destination.is_dir():
            raise
