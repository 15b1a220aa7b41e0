"""The store: `objects/<kind>/<digest>/` whole or absent, `refs/…json` replaced at once, `jobs/<identity>/` at work."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from bai_pipeline.errors import StoreError
from bai_pipeline.store.files import fsync_directory, fsync_tree, write_atomically
from bai_pipeline.store.objects import TABLE_NAME, ObjectTable, hash_file
from bai_pipeline.store.refs import Ref, RefKey

DAY = 24 * 60 * 60.0
"""Seconds."""


@dataclass(frozen=True)
class Store:
    """A directory that holds every artefact of every study."""

    root: Path

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
        destination = self.path(uri)
        if destination.exists():
            try:
                self.open(uri)
            except StoreError:
                self._remove(destination)  # damaged since it was published: replaced by the same content, whole
            else:
                return uri
        (directory / TABLE_NAME).write_text(table.to_json(), encoding="utf-8")
        self._remember(uri, directory, table)
        fsync_tree(directory)
        destination.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.rename(destination)
        except OSError:
            if not destination.exists():
                raise
        fsync_directory(destination.parent)
        return uri

    def path(self, uri: str) -> Path:
        """Where a URI lies; says nothing about whether it is there."""
        parsed = urlparse(uri)
        if parsed.scheme == "file":
            return Path(unquote(parsed.path))
        if parsed.scheme != "store" or ".." in parsed.path.split("/"):
            raise StoreError(f"expected a store: or file: URI, got {uri!r}")
        return self.root / parsed.path

    def open(self, uri: str) -> Path:
        """The directory of an object, after a check that it is whole.

        Sizes are always compared; bytes are read again where a file's (size, mtime, inode) is not as remembered.

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

    def _remove(self, directory: Path) -> None:
        """Make an object absent at once, even if its removal is interrupted."""
        doomed = self.root / "staging" / uuid.uuid4().hex
        doomed.parent.mkdir(parents=True, exist_ok=True)
        directory.rename(doomed)
        shutil.rmtree(doomed)

    # -- refs --------------------------------------------------------------------------------------------------------

    def read_ref(self, key: RefKey) -> Ref | None:
        path = self.root / "refs" / key.path
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return Ref.from_json(text, str(path))

    def write_ref(self, key: RefKey, ref: Ref) -> None:
        write_atomically(self.root / "refs" / key.path, ref.to_json())

    def refs(self) -> Iterator[tuple[Path, Ref]]:
        """Every ref of every study, with its file."""
        for path in sorted((self.root / "refs").rglob("*.json")):
            yield path, Ref.from_json(path.read_text(encoding="utf-8"), str(path))

    # -- jobs --------------------------------------------------------------------------------------------------------

    def job_directory(self, identity: str) -> Path:
        """Where a job keeps its specification, log, progress, result and (below work/) its state."""
        path = self.root / "jobs" / identity
        path.mkdir(parents=True, exist_ok=True)
        return path

    # -- integrity ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _object_of(uri: str) -> str:
        parts = uri.removeprefix("store:").split("/")
        if not uri.startswith("store:objects/") or len(parts) < 3:
            raise StoreError(f"expected store:objects/KIND/DIGEST…, got {uri!r}")
        return "store:" + "/".join(parts[:3])

    def _memory(self, uri: str) -> Path:
        return self.root / "cache" / f"{uri.removeprefix('store:objects/').replace('/', '-')}.json"

    def _remember(self, uri: str, directory: Path, table: ObjectTable) -> None:
        stats = {name: _identity(directory / name) for name in table.files}
        write_atomically(self._memory(uri), json.dumps(stats))

    def _check(self, uri: str, directory: Path, *, every_byte: bool) -> None:
        table = ObjectTable.read(directory)
        if table.digest != directory.name:
            raise StoreError(f"{directory / TABLE_NAME} was altered: its digest is {table.digest}")
        try:
            known = json.loads(self._memory(uri).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            known = {}
        changed = False
        for name, (size, digest) in table.files.items():
            path = directory / name
            if not path.is_file():
                raise StoreError(f"{uri} is incomplete: {name} is missing")
            if path.stat().st_size != size:
                raise StoreError(f"{uri} is damaged: {name} has {path.stat().st_size} bytes, expected {size}")
            if every_byte or known.get(name) != _identity(path):
                changed = True
                if hash_file(path) != digest:
                    raise StoreError(f"{uri} is damaged: the bytes of {name} do not match its digest {digest}")
        if changed:
            self._remember(uri, directory, table)


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]
