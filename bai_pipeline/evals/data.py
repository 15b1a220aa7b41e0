"""A benchmark's data on disk: a directory with a file (or numbered shards) per split.

test.jsonl                            rows, one JSON object a line
test.json                             a list of rows, or an object of rows by id (as MixEval publishes them)
test.parquet
test.csv                              with a header; every value is text
test-00000-of-00002.parquet, …        shards, of any of these kinds
source.json                           where it was fetched from; absent where it was put there by hand
"""

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from bai_pipeline.errors import DataError

SUFFIXES: Final = (".jsonl", ".json", ".parquet", ".csv")
"""Kinds of file that a split is read from."""
SOURCE_FILE: Final = "source.json"

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_SHOWN_FAULTS = 20
_SHOWN_CHARACTERS = 80
_CHUNK = 4 * 1024 * 1024

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """Where a benchmark's data comes from."""

    repository: str
    """A dataset of the Hugging Face hub (owner/name), or the URL below which the files are."""
    files: Mapping[str, str]
    """Our name of a split ("test", "dev", "baseline", …) → its files: a pattern inside the repository, in which * is
    anything but a slash. A file of another repository is hf://datasets/OWNER/NAME[@REVISION]/PATTERN. Below a URL it is
    one path, without a pattern."""
    licence: str
    revision: str | None = None
    """Pinned commit of the repository; None: the newest when it is fetched, which is recorded."""
    note: str = ""


def has_split(directory: Path, split: str) -> bool:
    """Whether any file is there for a split."""
    return any(name == split for name, _ in _split_files(directory))


def read_split(directory: Path, split: str) -> list[dict[str, Any]]:
    """The rows of a split, in the order of its files.

    Values are plain Python: Parquet's lists and structs are lists and dicts, dates and times ISO 8601 text, decimals
    floats. Rows of a JSON object get their key as `id` where they have none.

    Raises:
        DataError: the directory or split is absent, several files claim to be the split, a shard is absent, the split
            is empty, or a file cannot be read (a line of JSON is named by its number).
    """
    rows = [row for path in _files_of(directory, split) for row in _read_file(path)]
    if not rows:
        raise DataError(f"expected rows in the split {split!r} of {directory}, got none; nothing was evaluated")
    return rows


def digest_of(directory: Path) -> str:
    """SHA-256 over names and bytes of a directory's split files, whichever they are; source.json does not count.

    Raises:
        DataError: no such files.
    """
    paths = sorted((path for _, path in _split_files(directory)), key=lambda path: path.name)
    if not paths:
        raise DataError(_absent(directory, "test"))
    digest = hashlib.sha256()
    for path in paths:
        name = path.name.encode()
        digest.update(len(name).to_bytes(8, "big") + name + path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def validate_rows(
    rows: Iterable[Mapping[str, Any]], model: type[M], path: Path, *, key: Callable[[M], Hashable] | None = None
) -> list[M]:
    """Rows as a benchmark's model of them.

    Args:
        path: where they stand, for the message.
        key: what must differ between rows, such as an id.

    Raises:
        DataError: every fault, of which 20 are shown: its row (counted from 0), field, what was expected and found.
    """
    valid: list[M] = []
    faults: list[str] = []
    seen: dict[Hashable, int] = {}
    for number, row in enumerate(rows):
        try:
            item = model.model_validate(row)
        except ValidationError as error:
            faults += [f"row {number}: {fault}" for fault in _faults(error)]
            continue
        valid.append(item)
        if key is not None and (first := seen.setdefault(key(item), number)) != number:
            faults.append(f"row {number}: {key(item)!r} stands in row {first} already")
    if faults:
        more = f"\n  … and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
        raise DataError(
            f"{path} is not the benchmark's data; nothing was evaluated:\n  "
            + "\n  ".join(faults[:_SHOWN_FAULTS])
            + more
        )
    return valid


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        field = ".".join(map(str, fault["loc"])) or "the row"
        found = "no such field" if fault["type"] == "missing" else _shown(fault["input"])
        yield f"{field}: {fault['msg']}, got {found}"


def _split_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """(split, file) of every file that may hold rows."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        if path.suffix in SUFFIXES and path.name != SOURCE_FILE and not path.name.startswith(".") and path.is_file():
            shard = _SHARD.fullmatch(path.stem)
            yield (shard["split"] if shard else path.stem), path


def _files_of(directory: Path, split: str) -> list[Path]:
    """The files of a split, shards in their order."""
    paths = [path for name, path in _split_files(directory) if name == split]
    if not paths:
        raise DataError(_absent(directory, split))
    names = [path.name for path in paths]
    shards = [_SHARD.fullmatch(path.stem) for path in paths]
    if len({(path.suffix, shard and shard["count"]) for path, shard in zip(paths, shards, strict=True)}) > 1:
        raise DataError(
            f"expected one file or one set of shards for the split {split!r} in {directory}, got {', '.join(names)}"
        )
    if shards[0]:
        expected = shard_names(split, paths[0].suffix, int(shards[0]["count"]))
        if names != expected:
            absent = ", ".join(name for name in expected if name not in names) or "none"
            raise DataError(
                f"expected {len(expected)} shards of the split {split!r} in {directory}, got {', '.join(names)}; "
                f"absent: {absent}"
            )
    return paths


def shard_names(split: str, suffix: str, count: int) -> list[str]:
    """Names of a split's files if there are several."""
    return [f"{split}-{number:05}-of-{count:05}{suffix}" for number in range(count)]


def _absent(directory: Path, split: str) -> str:
    names = ", ".join(f"{split}{suffix}" for suffix in SUFFIXES)
    held = ", ".join(sorted(path.name for path in directory.iterdir())) if directory.is_dir() else None
    return (
        f"expected the split {split!r} of the benchmark {directory.name!r} in {directory}, got "
        + ("no such directory" if held is None else f"a directory with {held or 'nothing in it'}")
        + f"; nothing was evaluated. Fetch it with `bai data fetch {directory.name}`, or put one of these files there: "
        + f"{names} (or shards {split}-00000-of-0000N.parquet)"
    )


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from _READERS[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    # Not str.splitlines, which also ends a line at U+2028, that JSON text may contain.
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise DataError(f"cannot read line {number} of {path}: {error}") from error
        yield _checked(row, path, f"line {number}")


def _read_json(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"cannot read line {error.lineno} of {path}: {error}") from error
    if isinstance(content, list):
        yield from (_checked(row, path, f"item {number}") for number, row in enumerate(content))
    elif isinstance(content, dict):
        yield from ({"id": name} | _checked(row, path, f"item {name!r}") for name, row in content.items())
    else:
        raise DataError(f"expected a list of rows or an object of rows by id in {path}, got {_shown(content)}")


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Of one file: `read_table` would make columns of a parent directory's name that looks like one=two.
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield {name: _plain(value) for name, value in row.items()}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            found = len(row) - 1 + len(row[None]) if None in row else sum(value is not None for value in row.values())
            if found != len(reader.fieldnames or ()):
                raise DataError(
                    f"expected {len(reader.fieldnames or ())} values, got {found} in the record that ends in line "
                    f"{reader.line_num} of {path}"
                )
            yield row


_READERS: Final[Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _checked(row: object, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"expected an object, got {_shown(row)} in {place} of {path}")
    return row


def _plain(value: Any) -> Any:
    """A value that JSON can hold, of one that pyarrow gave."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
