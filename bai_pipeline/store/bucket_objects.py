"""Objects in a bucket: files first, their table last, so that an object is there with its table or not at all.

An object's files lie below `objects/KIND/DIGEST/`; `top` is its URI, "store:objects/KIND/DIGEST".
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import xxhash

from bai_pipeline.errors import StoreError, StoreUnavailable
from bai_pipeline.store.bucket import REQUESTS, Bucket, Entry, upload_all
from bai_pipeline.store.objects import TABLE_NAME, ObjectTable
from bai_pipeline.store.snapshots import TABLE, fetch_file, live_files

Listing = Mapping[str, Sequence[Entry]]
"""Files by the first parts of their names."""


@dataclass(frozen=True)
class BucketObjects:
    """What a bucket has of objects; nothing is kept on this machine."""

    bucket: Bucket

    def upload(self, top: str, table: ObjectTable, directory: Path) -> None:
        """Make an object of the files in a directory."""
        name = name_of(top)
        upload_all(self.bucket, [(f"{name}/{file}", directory / file) for file in table.files])
        self.bucket.put(f"{name}/{TABLE_NAME}", table.to_json().encode())

    def all(self) -> list[str]:
        """URIs of all objects."""
        listed = sorted(self.listed("objects", 3).items())
        return [f"store:{name}" for name, entries in listed if _has_table(name, entries)]

    def table(self, top: str) -> ObjectTable:
        """What an object consists of.

        Raises:
            StoreError: it is absent, or its table was altered.
        """
        place = f"{self.bucket.location}/{name_of(top)}/{TABLE_NAME}"
        text = self.bucket.get(f"{name_of(top)}/{TABLE_NAME}")
        if text is None:
            raise self._absent(top)
        table = ObjectTable.from_json(text.decode(), place.removesuffix(f"/{TABLE_NAME}"))
        if not top.endswith(f"/{table.digest}"):
            raise StoreError(f"{place} was altered: its digest is {table.digest}")
        return table

    def check(self, top: str, known: ObjectTable | None) -> ObjectTable:
        """The table of an object that is whole: names and sizes are compared, no byte is read.

        A file that is younger than the table was written by another who publishes the same, or is damaged: it is read.

        Args:
            known: the object's table, if it need not be fetched.

        Raises:
            StoreError: absent, incomplete or damaged, naming the file.
        """
        name = name_of(top)
        there = {entry.name.removeprefix(f"{name}/"): entry for entry in self.bucket.list(name)}
        written = there.get(TABLE_NAME)
        if written is None:
            raise self._absent(top)
        table = known or self.table(top)
        for file, (size, digest) in table.files.items():
            if file not in there:
                raise StoreError(f"{top} is incomplete: {file} is missing")
            if there[file].size != size:
                raise StoreError(f"{top} is damaged: {file} has {there[file].size} bytes, expected {size}")
            if there[file].modified > written.modified:
                self.check_bytes(top, file, (size, digest))
        return table

    def check_bytes(self, top: str, file: str, entry: tuple[int, str]) -> None:
        """Read a file of an object, and compare it with its (size, digest); raises StoreError."""
        size, digest = entry
        hasher = xxhash.xxh3_128()
        for piece in self.bucket.stream(f"{name_of(top)}/{file}", 0, size):
            hasher.update(piece)
        if hasher.hexdigest() != digest:
            raise StoreError(f"{top} is damaged: the bytes of {file} do not match its digest {digest}")

    def download(self, top: str, files: Mapping[str, tuple[int, str]], directory: Path) -> None:
        """Fetch files of an object, each verified by its (size, digest) as it comes.

        Raises:
            StoreError: one is missing or damaged, naming it.
        """

        def fetch(name: str) -> None:
            try:
                fetch_file(self.bucket, f"{name_of(top)}/{name}", directory / name, *files[name])
            except StoreUnavailable:
                raise
            except StoreError as error:
                raise StoreError(f"{top} is damaged or incomplete: {name}: {error}") from error

        with ThreadPoolExecutor(REQUESTS) as pool:
            for _ in pool.map(fetch, files):
                pass

    def leftovers(self, latest: datetime) -> list[str]:
        """Files that no state of a job names any more, and that are as old as `latest` or older."""
        names: list[str] = []
        for job, entries in self.listed("jobs", 2).items():
            text = self.bucket.get(f"{job}/{TABLE}")
            live = set() if text is None else {f"{job}/files/{digest}" for digest in live_files(text.decode())}
            dead = [entry for entry in entries if entry.name.startswith(f"{job}/files/") and entry.name not in live]
            names += [entry.name for entry in dead if entry.modified <= latest]
        return names

    def listed(self, prefix: str, depth: int) -> Listing:
        """All files below a prefix, by the first `depth` parts of their names."""
        found: dict[str, list[Entry]] = {}
        for entry in self.bucket.list(prefix):
            found.setdefault("/".join(entry.name.split("/")[:depth]), []).append(entry)
        return found

    def _absent(self, top: str) -> StoreError:
        return StoreError(f"{top} is not in the store (looked in {self.bucket.location})")


def garbage_of(objects: Listing, named: Collection[str], latest: datetime) -> tuple[list[str], list[str], list[str]]:
    """What no ref names and nothing has touched since `latest`.

    Args:
        objects: all files of all objects, complete or not.
        named: URIs of objects that a ref names.

    Returns:
        URIs of objects, the names of their tables, and those of all other files, also of uploads that did not end.
    """
    garbage, tables, names = [], list[str](), list[str]()
    for name, entries in sorted(objects.items()):
        if f"store:{name}" in named or max(entry.modified for entry in entries) > latest:
            continue
        table = f"{name}/{TABLE_NAME}"
        if _has_table(name, entries):
            garbage.append(f"store:{name}")
            tables.append(table)
        names += [entry.name for entry in entries if entry.name != table]
    return garbage, tables, names


def name_of(top: str) -> str:
    """Name in the bucket of an object."""
    return top.removeprefix("store:")


def _has_table(name: str, entries: Sequence[Entry]) -> bool:
    return any(entry.name == f"{name}/{TABLE_NAME}" for entry in entries)
