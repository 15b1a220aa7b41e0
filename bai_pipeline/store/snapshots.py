"""The state of a job in object storage, as one thing: a table of files, replaced by one conditional write.

    jobs/IDENTITY/work.json            {path below work/: [size, XXH3-128]}
    jobs/IDENTITY/files/DIGEST         content of files, under the name of their digest

Files come first and the table last, so what the table names is there; what it names no longer is removed afterwards. A
file that has not changed since the last table costs nothing.
"""

import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from bai_pipeline.errors import StoreError, StoreUnavailable
from bai_pipeline.jobspec import canonical_json
from bai_pipeline.store.bucket import FILES, REQUESTS, Bucket, Version
from bai_pipeline.store.files import write_atomically
from bai_pipeline.store.integrity import identity_of
from bai_pipeline.store.objects import ObjectTable, hash_file

TABLE = "work.json"
_TRIES = 10


class Snapshots:
    """What a job has below work/, on this machine and in the bucket."""

    def __init__(self, bucket: Bucket, prefix: str, directory: Path) -> None:
        """The state of one job.

        Args:
            prefix: of the job in the bucket.
            directory: of the job here.
        """
        self._bucket, self._prefix, self._directory = bucket, prefix, directory
        self._work, self._synced = directory / "work", directory / TABLE
        self._hashed: dict[str, tuple[list[int], str]] = {}
        self._version: Version | None = None
        self._kept: set[str] = set()
        """Digests of the last table."""

    def restore(self) -> None:
        """Bring work/ to the bucket's state, unless it has gone on from just that state on this machine.

        Raises:
            StoreError: a file is missing or damaged.
        """
        found = self._bucket.get_version(f"{self._prefix}/{TABLE}")
        text, self._version = (None, None) if found is None else (found[0].decode(), found[1])
        table = {} if text is None else _parse(text)
        self._kept = {digest for _, digest in table.values()}
        if text == (self._synced.read_text(encoding="utf-8") if self._synced.is_file() else None):
            return
        self._synced.unlink(missing_ok=True)
        shutil.rmtree(self._work, ignore_errors=True)
        if text is None:
            return
        temporary = self._directory / f".work-{uuid.uuid4().hex}"
        try:
            with ThreadPoolExecutor(REQUESTS) as pool:
                for _ in pool.map(lambda item: self._fetch(temporary / item[0], *item[1]), table.items()):
                    pass
            temporary.rename(self._work)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        write_atomically(self._synced, text)

    def save(self) -> None:
        """Make the bucket's state that of work/.

        Raises:
            StoreUnavailable: another process has written it since `restore`.
        """
        with ThreadPoolExecutor(FILES) as pool:
            table = dict(pool.map(lambda item: (item[0], self._upload(*item)), self._walk()))
        text, name = canonical_json(table), f"{self._prefix}/{TABLE}"
        if self._version is None:
            version = self._bucket.put_new(name, text.encode())
        else:
            version = self._bucket.replace(name, text.encode(), self._version)
        if version is None:  # unless the write came through and only its answer was lost
            found = self._bucket.get_version(name)
            version = found[1] if found is not None and found[0] == text.encode() else None
        if version is None:
            raise StoreUnavailable(
                f"{self._bucket.location}/{name} was written by another process: it has gone on with this job; its "
                "state was left as it is"
            )
        self._version = version
        write_atomically(self._synced, text)
        kept = {digest for _, digest in table.values()}
        self._bucket.delete(map(self._place, sorted(self._kept - kept)))
        self._kept = kept

    def _walk(self) -> Iterator[tuple[str, Path]]:
        """The files of the state; what is being written has a name that begins with a dot."""
        for path in sorted(self._work.rglob("*")):
            name = path.relative_to(self._work)
            if path.is_file() and not any(part.startswith(".") for part in name.parts):
                yield name.as_posix(), path

    def _upload(self, name: str, path: Path) -> tuple[int, str]:
        """Size and digest of a file, once the bucket has it; one that changes meanwhile is taken again."""
        for _ in range(_TRIES):
            identity = identity_of(path)
            known = self._hashed.get(name)
            if known is None or known[0] != identity:
                known = self._hashed[name] = (identity, hash_file(path))
            if known[1] not in self._kept:
                self._bucket.upload(self._place(known[1]), path)
            if identity_of(path) == identity:
                return identity[0], known[1]
        raise StoreUnavailable(f"{path} was written {_TRIES} times while it was uploaded; the state was not saved")

    def _fetch(self, path: Path, size: int, digest: str) -> None:
        fetch_file(self._bucket, self._place(digest), path, size, digest)

    def _place(self, digest: str) -> str:
        return f"{self._prefix}/files/{digest}"


def fetch_file(bucket: Bucket, name: str, path: Path, size: int, digest: str) -> None:
    """Copy a file of the bucket to a path that does not exist yet, and verify it on the way.

    Raises:
        StoreError: it is missing or damaged; nothing is left at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hasher = xxhash.xxh3_128()
    try:
        with path.open("xb") as file:
            for piece in bucket.stream(name, 0, size):
                hasher.update(piece)
                file.write(piece)
        if hasher.hexdigest() != digest:
            raise StoreError(f"{bucket.location}/{name} is damaged: its bytes do not match the digest {digest}")
    except StoreError:
        path.unlink(missing_ok=True)
        raise


def live_files(text: str) -> set[str]:
    """The digests that a table names."""
    return {digest for _, digest in _parse(text).values()}


def _parse(text: str) -> dict[str, tuple[int, str]]:
    return dict(ObjectTable.from_json(text, TABLE).files)
