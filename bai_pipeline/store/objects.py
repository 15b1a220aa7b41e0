"""What an object consists of: a table of its files, whose digest is its name."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from bai_pipeline.errors import StoreError
from bai_pipeline.jobspec import canonical_json

TABLE_NAME = ".files.json"
_CHUNK = 4 * 1024 * 1024


def hash_file(path: Path) -> str:
    """XXH3-128 of a file's bytes, 32 hexadecimal digits."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


@dataclass(frozen=True)
class ObjectTable:
    """Relative path -> (size in bytes, XXH3-128) of every file of an object."""

    files: Mapping[str, tuple[int, str]]

    @classmethod
    def of(cls, directory: Path) -> "ObjectTable":
        """Read every byte below `directory`.

        Raises:
            StoreError: the directory holds a symbolic link or nothing at all.
        """
        files = {name: (path.stat().st_size, hash_file(path)) for name, path in _walk(directory)}
        if not files:
            raise StoreError(f"nothing to publish: {directory} is empty")
        return cls(files)

    @classmethod
    def read(cls, directory: Path) -> "ObjectTable":
        """Read the table that was written beside the files.

        Raises:
            StoreError: there is none.
        """
        try:
            text = (directory / TABLE_NAME).read_text(encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{directory} is not an object of this store: {error}") from error
        return cls.from_json(text, str(directory))

    @classmethod
    def from_json(cls, text: str, where: str) -> "ObjectTable":
        """The table of the object at `where`.

        Raises:
            StoreError: it is malformed, or names a file outside.
        """
        try:
            files = {name: (int(size), str(digest)) for name, (size, digest) in json.loads(text).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{where} is not an object of this store: {error}") from error
        for name in files:
            if name.startswith("/") or ".." in name.split("/"):
                raise StoreError(f"{where} is not an object of this store: it names a file {name!r}")
        return cls(files)

    def to_json(self) -> str:
        return canonical_json({name: list(entry) for name, entry in self.files.items()})

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the SHA-256 of the table: the object's name."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def below(self, prefix: str) -> "ObjectTable":
        """The table of one directory of the object, as if it were an object of its own."""
        start = prefix.rstrip("/") + "/"
        files = {name.removeprefix(start): entry for name, entry in self.files.items() if name.startswith(start)}
        if not files:
            raise StoreError(f"the object holds nothing below {prefix!r}")
        return ObjectTable(files)


def _walk(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            raise StoreError(f"an object holds no symbolic links, found {path}")
        if path.is_file() and path.name != TABLE_NAME:
            yield path.relative_to(directory).as_posix(), path
