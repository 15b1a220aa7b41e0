"""The store: `objects/<kind>/<digest>/` whole or absent, `refs/…json` replaced at once, `jobs/<identity>/` at work."""

import errno
import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from bai_pipeline.errors import StoreError
from bai_pipeline.store.claims import Claim, DirectoryClaim, locked
from bai_pipeline.store.files import fsync_directory, fsync_tree, write_atomically
from bai_pipeline.store.integrity import check_files, remember_files
from bai_pipeline.store.objects import TABLE_NAME, ObjectTable
from bai_pipeline.store.refs import Ref, RefKey

DAY = 24 * 60 * 60.0
"""Seconds."""


@dataclass(frozen=True)
class Store:
    """A directory that holds every artefact of every study.

    `bai_pipeline.store.remote` keeps the same in object storage; `open_store` tells which is meant.
    """

    root: Path

    @property
    def location(self) -> str:
        """What `BAI_STORE` is for a process that shall use this store."""
        return str(self.root)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process finds this store, and works in the same directory if it is mounted there."""
        return {"BAI_STORE": self.location}

    # -- objects -----------------------------------------------------------------------------------------------------

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """An empty directory on the store's file system, removed afterwards unless it was published."""
        directory = self.root / "staging" / uuid.uuid4().hex
        directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def publish(self, kind: str, directory: Path) -> str:
        """Turn a staged directory into an object: digest, fsync, one rename. The same content is stored once.

        Returns:
            The object's URI, "store:objects/KIND/DIGEST".
        """
        table = ObjectTable.of(directory)
        uri = f"store:objects/{kind}/{table.digest}"
        self._place(uri, table, directory)
        return uri

    def _place(self, uri: str, table: ObjectTable, directory: Path) -> None:
        destination = self.path(uri)
        if destination.exists():
            try:
                self.open(uri)
            except StoreError:
                self._remove(destination)  # damaged since it was published: replaced by the same content, whole
            else:
                return
        (directory / TABLE_NAME).write_text(table.to_json(), encoding="utf-8")
        remember_files(directory, table.files, self._memory(uri))
        fsync_tree(directory)
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.rename(destination)
        except OSError:
            if not destination.exists():
                raise
        fsync_directory(destination.parent)

    def path(self, uri: str) -> Path:
        """Where a URI lies; says nothing about whether it is there."""
        parsed = urlparse(uri)
        if parsed.scheme == "file":
            return Path(unquote(parsed.path))
        if parsed.scheme != "store" or ".." in parsed.path.split("/"):
            raise StoreError(f"expected a store: or file: URI, got {uri!r}")
        return self.root / parsed.path

    def open(self, uri: str, *, skip: Sequence[str] = ()) -> Path:
        """The directory of an object, after a check that it is whole.

        Sizes are always compared; bytes are read again where a file's (size, mtime, inode) is not as remembered.

        Args:
            skip: directories of the object that will not be read, and need not be fetched from wherever they are.

        Raises:
            StoreError: absent, incomplete or damaged, naming the file.
        """
        path = self.path(uri)
        if not path.is_dir():
            raise StoreError(f"{uri} is not in the store (looked for {path})")
        if uri.startswith("store:"):
            top = self._object_of(uri)
            self._check(top, self.path(top), every_byte=False)
        return path

    def peek(self, uri: str, *names: str) -> Path:
        """A directory with at least these files of an object, which is known to be there as a whole.

        Raises:
            StoreError: absent, incomplete or damaged, naming the file.
        """
        return self.open(uri)

    def open_tensors(self, uri: str, manifest: str) -> Path:
        """`open` for who reads tensors through `bai_pipeline.store.ranged`, and checks them by the object's manifest.

        Args:
            manifest: its file; an object without it is opened as any other.

        Raises:
            StoreError: absent, incomplete or damaged, naming the file.
        """
        return self.open(uri)

    def verify(self, uri: str) -> None:
        """Read every byte of an object and compare it with its table.

        Raises:
            StoreError: absent, incomplete or damaged, naming the file.
        """
        top = self._object_of(uri)
        self._check(top, self.path(top), every_byte=True)

    def digest(self, uri: str) -> str:
        """Digest of an object, or of a directory inside one ("store:objects/KIND/DIGEST/some/directory")."""
        top = self._object_of(uri)
        inside = uri.removeprefix(top).strip("/")
        table = ObjectTable.read(self.path(top))
        return table.below(inside).digest if inside else table.digest

    def objects(self) -> list[str]:
        """URIs of all objects."""
        return [f"store:objects/{p.parent.name}/{p.name}" for p in sorted((self.root / "objects").glob("*/*"))]

    def collect_garbage(self, *, older_than: float = DAY, dry_run: bool = False) -> list[str]:
        """Remove the objects that no ref of any study names, and what interrupted jobs left in staging.

        Args:
            older_than: seconds; what is younger is spared, because a job that is running may be about to name it.

        Returns:
            The URIs of the removed objects.
        """
        latest = time.time() - older_than
        candidates = [uri for uri in self.objects() if (self.path(uri) / TABLE_NAME).stat().st_mtime <= latest]
        named = {self._object_of(ref.object) for _, ref in self.refs() if ref.object.startswith("store:")}
        garbage = [uri for uri in candidates if uri not in named]
        if dry_run:
            return garbage
        for uri in garbage:
            self._remove(self.path(uri))
            self._memory(uri).unlink(missing_ok=True)
        for leftover in (self.root / "staging").glob("*"):
            if leftover.stat().st_mtime <= latest:
                shutil.rmtree(leftover)
        return garbage

    def evict(self, *, older_than: float = DAY) -> list[Path]:
        """Remove copies from this machine that were not opened for so many seconds; a directory has none.

        Returns:
            Where they were.
        """
        return []

    def _remove(self, directory: Path) -> None:
        """Make an object absent at once, even if its removal is interrupted."""
        doomed = self.root / "staging" / uuid.uuid4().hex
        doomed.parent.mkdir(parents=True, exist_ok=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)

    # -- refs --------------------------------------------------------------------------------------------------------

    def read_ref(self, key: RefKey) -> Ref | None:
        text = self.read_text(f"refs/{key.path}")
        return None if text is None else Ref.from_json(text, f"{self.location}/refs/{key.path}")

    def write_ref(self, key: RefKey, ref: Ref) -> None:
        self.write_text(f"refs/{key.path}", ref.to_json())

    def refs(self) -> Iterator[tuple[Path, Ref]]:
        """Every ref of every study, with its file."""
        for path in sorted((self.root / "refs").rglob("*.json")):
            yield path, Ref.from_json(path.read_text(encoding="utf-8"), str(path))

    # -- small files -------------------------------------------------------------------------------------------------

    def read_text(self, name: str) -> str | None:
        """A ref, or a file of a job, by its path below the root; None if there is none."""
        while True:
            try:
                return (self.root / name).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:  # NFS: it was replaced between opening and reading
                    raise

    def write_text(self, name: str, text: str) -> None:
        """Replace such a file at once."""
        write_atomically(self.root / name, text)

    def remove_text(self, name: str) -> None:
        """Remove such a file, if it is there."""
        (self.root / name).unlink(missing_ok=True)

    # -- jobs --------------------------------------------------------------------------------------------------------

    def job_directory(self, identity: str) -> Path:
        """Where a job keeps its specification, log, progress, result and (below work/) its state."""
        path = self.root / "jobs" / identity
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def claim(self, identity: str, logger: logging.Logger) -> Iterator[Claim]:
        """Hold a job; waits for another process that does."""
        directory = self.job_directory(identity)
        with locked(directory / "lock", logger):
            yield DirectoryClaim(directory)

    def keep_log(self, identity: str) -> None:
        """Make a job's log outlive this machine."""

    def check_shared(self, identity: str) -> None:
        """Raise StoreError where a job's ranks on several machines do not see the same directory of it."""

    # -- integrity ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _object_of(uri: str) -> str:
        parts = uri.removeprefix("store:").split("/")
        if not uri.startswith("store:objects/") or len(parts) < 3:
            raise StoreError(f"expected store:objects/KIND/DIGEST…, got {uri!r}")
        return "store:" + "/".join(parts[:3])

    def _memory(self, uri: str) -> Path:
        return self.root / "cache" / f"{uri.removeprefix('store:objects/').replace('/', '-')}.json"

    def _check(self, uri: str, directory: Path, *, every_byte: bool) -> None:
        table = ObjectTable.read(directory)
        if table.digest != directory.name:
            raise StoreError(f"{directory / TABLE_NAME} was altered: its digest is {table.digest}")
        check_files(uri, directory, table.files, self._memory(uri), every_byte=every_byte)
