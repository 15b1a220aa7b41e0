"""Fetching a benchmark's data into its directory, which is whole or absent, and recording where it is from."""

import json
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from bai_pipeline.errors import DataError
from bai_pipeline.eval_settings import benchmark_directory
from bai_pipeline.evals.data import SOURCE_FILE, SUFFIXES, Source, has_split
from bai_pipeline.evals.downloading import (
    FetchedFile,
    Place,
    Remote,
    download,
    explained,
    file_digest,
    find_files,
    new_directory,
)
from bai_pipeline.progress import Reporter, SilentReporter
from bai_pipeline.store.files import fsync_directory, fsync_tree

_HUB_URI = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<pattern>.+)")


class Record(BaseModel):
    """`source.json` of a fetched benchmark."""

    repository: str
    revision: str | None
    """The commit; OWNER/NAME@COMMIT, … where files come from several repositories; None: URLs have none."""
    licence: str
    fetched: str
    """UTC, ISO 8601."""
    files: dict[str, FetchedFile]


def fetch(
    name: str,
    source: Source,
    to: Path,
    *,
    revision: str | None = None,
    force: bool = False,
    progress: Reporter | None = None,
) -> Path:
    """Download a benchmark's files to its directory below `to`; it is whole or absent.

    A directory that is there is kept, and no network is used. With `force` one that was fetched is replaced, unless it
    is whole and holds the revision asked for; one that was put there by hand never is.

    Args:
        to: a data root (see `benchmark_directory`).
        revision: commit, branch or tag in place of the source's.
        progress: gets bytes, after each file.

    Raises:
        DataError: no network, repository, revision, file or permission, or a download that differs from what the hub
            says it holds; says which files to put where by hand. Or the directory that is there is damaged or of
            another revision, and `force` was not given.
    """
    reporter = progress or SilentReporter()
    directory = benchmark_directory(name, to)
    places = _places(name, source, revision)
    if directory.exists() and _is_kept(directory, places, force):
        reporter.log(f"{name}: {directory} is kept as it is: {described(directory, source)}")
        return directory
    with explained(name, source, directory):
        remotes = find_files(name, places)
        if directory.exists() and _holds(directory, remotes):
            reporter.log(f"{name}: {directory} is kept as it is: no other revision was asked for")
            return directory
        with new_directory(directory) as staging:
            files: dict[str, FetchedFile] = {}
            total = sum(remote.size or 0 for remote in remotes)
            for remote in remotes:
                reporter.log(f"{name}: {remote.uri}")
                files[remote.name] = download(remote, staging)
                done = sum(file.bytes for file in files.values())
                reporter.progress(done, max(total, done))
            record = Record(
                repository=source.repository,
                revision=_revision(remotes),
                licence=source.licence,
                fetched=datetime.now(UTC).isoformat(timespec="seconds"),
                files=files,
            )
            (staging / SOURCE_FILE).write_text(json.dumps(record.model_dump(), indent=1) + "\n", encoding="utf-8")
            fsync_tree(staging)
            _put(staging, directory)
    return directory


def read_record(directory: Path) -> Record | None:
    """What `fetch` wrote about a directory; None: it was not fetched, or is absent.

    Raises:
        DataError: source.json is damaged.
    """
    path = directory / SOURCE_FILE
    if not path.is_file():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def described(directory: Path, source: Source) -> str:
    """How much of a benchmark is there: "absent", "put there by hand", or its revision."""
    record = read_record(directory)
    if record is not None:
        return record.revision or "fetched"
    missing = [split for split in source.files if not has_split(directory, split)]
    if len(missing) == len(source.files):
        return "absent"
    return "put there by hand" + (f", without {', '.join(missing)}" if missing else "")


def _places(name: str, source: Source, revision: str | None) -> list[Place]:
    """Where each split comes from; a split with a repository of its own keeps its own revision."""
    by_url = re.match("https?://", source.repository) is not None
    places = []
    for split, pattern in source.files.items():
        if uri := _HUB_URI.fullmatch(pattern):
            place = Place(split, uri["repository"], uri["revision"], uri["pattern"])
        elif by_url:
            place = Place(split, None, None, f"{source.repository.rstrip('/')}/{quote(pattern, safe='/%')}")
        else:
            place = Place(split, source.repository, revision or source.revision, pattern)
        if PurePosixPath(place.pattern).suffix not in SUFFIXES:
            raise DataError(f"expected {', '.join(SUFFIXES)} for the split {split!r} of {name}, got {pattern!r}")
        places.append(place)
    if revision is not None and (by_url or all(map(_HUB_URI.fullmatch, source.files.values()))):
        raise DataError(f"the files of {name} come from places of their own: no revision {revision!r} can be chosen")
    return places


def _revision(remotes: Sequence[Remote]) -> str | None:
    """The commit, or if there are several each with its repository."""
    commits = {f"{r.place.repository}@{r.commit}": r.commit for r in remotes if r.commit is not None}
    return next(iter(commits.values())) if len(commits) == 1 else ", ".join(commits) or None


def _is_kept(directory: Path, places: Sequence[Place], force: bool) -> bool:
    """Whether a directory is what was asked for, as far as that is known without the network."""
    record = read_record(directory)
    if record is None:
        if not any(directory.iterdir()):
            return False
        if force:
            raise DataError(
                f"{directory} was not fetched but put there by hand (it has no {SOURCE_FILE}): move it away first"
            )
        return True
    fault = _fault(directory, record, places)
    if not force and fault is not None:
        raise DataError(f"{directory} {fault}; nothing was changed, --force fetches it anew")
    added = [path.name for path in directory.iterdir() if path.name not in {SOURCE_FILE, *record.files}]
    if force and added:
        raise DataError(f"{directory} holds what was not fetched, {', '.join(sorted(added))}: move it away first")
    return fault is None and (not force or all(place.pinned for place in places))


def _fault(directory: Path, record: Record, places: Sequence[Place]) -> str | None:
    """In what a fetched directory differs from its record or from what is asked for."""
    for name, file in record.files.items():
        if not (directory / name).is_file():
            return f"lacks {name}, which was fetched"
        if file_digest(directory / name, "sha256") != file.sha256:
            return f"is damaged: {name} is not what was fetched"
    for place in places:
        if not has_split(directory, place.split):
            return f"lacks the split {place.split!r}"
        pin = f"hf://datasets/{place.repository}@{place.revision or ''}"
        if place.repository is not None and not any(file.uri.startswith(pin) for file in record.files.values()):
            return f"holds revision {record.revision} of {record.repository}, not {pin}"
    return None


def _holds(directory: Path, remotes: Sequence[Remote]) -> bool:
    """Whether a directory is whole and made of exactly these files, which cannot have changed."""
    record = read_record(directory)
    return (
        record is not None
        and all(remote.commit is not None for remote in remotes)
        and {name: file.uri for name, file in record.files.items()} == {r.name: r.uri for r in remotes}
        and _fault(directory, record, ()) is None
    )


def _put(staging: Path, directory: Path) -> None:
    """Rename; what was there before goes only once the new one is in its place."""
    former = staging.with_name(f"{staging.name}.former")
    if directory.exists():
        directory.rename(former)
    try:
        staging.rename(directory)
    except OSError:
        if former.exists():
            former.rename(directory)
        raise
    shutil.rmtree(former, ignore_errors=True)
    fsync_directory(directory.parent)
