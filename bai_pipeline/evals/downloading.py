"""Downloading a split's files from the Hugging Face hub or a URL, and saying what went wrong.

huggingface_hub does it, so its variables count: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE (which holds for URLs too),
proxies. No code of a repository is run.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from bai_pipeline.errors import DataError
from bai_pipeline.evals.data import SUFFIXES, Source, shard_names

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

TIMEOUT: Final = 30.0
"""Seconds that a server may say nothing."""

_CHUNK = 4 * 1024 * 1024
_SHOWN = 10


@dataclass(frozen=True)
class Place:
    """Where one split comes from."""

    split: str
    repository: str | None
    """None: `pattern` is a URL."""
    revision: str | None
    pattern: str

    @property
    def pinned(self) -> bool:
        """Whether what is there can never change."""
        return self.revision is not None and re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


@dataclass(frozen=True)
class Remote:
    """One file that is to be downloaded."""

    name: str
    place: Place
    path: str
    commit: str | None = None
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def uri(self) -> str:
        if self.place.repository is None:
            return self.path
        return f"hf://datasets/{self.place.repository}@{self.commit}/{self.path}"


class FetchedFile(BaseModel):
    """One file of a fetched benchmark."""

    uri: str
    """hf://datasets/OWNER/NAME@COMMIT/PATH or a URL."""
    sha256: str
    bytes: int


@contextmanager
def new_directory(directory: Path) -> Iterator[Path]:
    """A new directory beside another, removed in the end."""
    staging = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def find_files(name: str, places: Sequence[Place]) -> list[Remote]:
    """The files of every split, of repositories with the commit and what the hub says of size and digest."""
    from huggingface_hub import HfApi

    infos: dict[tuple[str, str | None], DatasetInfo] = {}
    remotes = []
    for place in places:
        if place.repository is None:
            suffix = PurePosixPath(place.pattern).suffix
            remotes.append(Remote(f"{place.split}{suffix}", place, place.pattern))
            continue
        asked = place.repository, place.revision
        if asked not in infos:
            infos[asked] = HfApi().dataset_info(
                place.repository, revision=place.revision, files_metadata=True, timeout=TIMEOUT
            )
        remotes += _matching(name, place, infos[asked])
    return remotes


def _matching(name: str, place: Place, info: "DatasetInfo") -> list[Remote]:
    """The files of a repository that are a split."""
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    paths = sorted(path for path in siblings if _matches(path, place.pattern))
    suffix = PurePosixPath(place.pattern).suffix
    if not paths or info.sha is None:
        others = sorted(path for path in siblings if path.endswith(SUFFIXES))
        shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
        raise DataError(
            f"expected {place.pattern} in the dataset {place.repository} at revision {info.sha} for the split "
            f"{place.split!r} of {name}, got no such file; of its kinds there are: {shown or 'none'}"
        )
    names = [f"{place.split}{suffix}"] if len(paths) == 1 else shard_names(place.split, suffix, len(paths))
    remotes = []
    for file_name, path in zip(names, paths, strict=True):
        lfs = siblings[path].lfs
        git_sha1 = None if lfs else siblings[path].blob_id
        remotes.append(
            Remote(file_name, place, path, info.sha, siblings[path].size, lfs.sha256 if lfs else None, git_sha1)
        )
    return remotes


def _matches(path: str, pattern: str) -> bool:
    """Shell patterns, part by part: * matches no slash."""
    parts, patterns = path.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def download(remote: Remote, staging: Path) -> FetchedFile:
    """Download a file and compare it with what the hub says that it is."""
    target = staging / remote.name
    if remote.place.repository is None:
        _download_url(remote.path, target)
    else:
        from huggingface_hub import hf_hub_download

        # Into a directory, as opposed to the hub's cache: a file of our own, no link into the cache.
        with new_directory(target) as scratch:
            downloaded = hf_hub_download(
                remote.place.repository, remote.path, repo_type="dataset", revision=remote.commit, local_dir=scratch
            )
            Path(downloaded).rename(target)
    sha256, size = file_digest(target, "sha256"), target.stat().st_size
    prefix = f"blob {size}\0".encode()
    for expected, found in (
        (remote.size, size),
        (remote.sha256, sha256),
        (remote.git_sha1, remote.git_sha1 and file_digest(target, "sha1", prefix)),
    ):
        if expected is not None and expected != found:
            raise DataError(f"expected {expected}, got {found} as size or digest of {remote.uri}; nothing was written")
    return FetchedFile(uri=remote.uri, sha256=sha256, bytes=size)


def _download_url(url: str, target: Path) -> None:
    from huggingface_hub import get_session, hf_raise_for_status

    with target.open("wb") as file, get_session().stream("GET", url, timeout=TIMEOUT) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)


def file_digest(path: Path, algorithm: str, prefix: bytes = b"") -> str:
    digest = hashlib.new(algorithm, prefix, usedforsecurity=algorithm != "sha1")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def explained(name: str, source: Source, directory: Path) -> Iterator[None]:
    """Turn what huggingface_hub raises into a DataError that says what to do."""
    from huggingface_hub import errors, is_offline_mode

    # The base of the library's own error is that of the HTTP client that it is built on.
    transport: tuple[type[Exception], ...] = errors.HfHubHTTPError.__bases__
    known: tuple[type[Exception], ...] = (
        *transport,
        errors.HFValidationError,
        errors.XetDownloadError,
        json.JSONDecodeError,
    )
    try:
        if is_offline_mode():
            raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set, so no network may be used")
        yield
    except known as error:
        raise DataError(
            f"cannot fetch {name}: {_reason(error, source)}; nothing was written to {directory}.\n"
            f"{_by_hand(source, directory)}"
        ) from error


def _reason(error: BaseException, source: Source) -> str:
    from huggingface_hub import constants, errors

    repository = getattr(error, "repo_id", None) or source.repository
    page = repository if "://" in repository else f"{constants.ENDPOINT}/datasets/{repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError) or status in (401, 403):
        return (
            f"{page} does not let everybody in, or does not exist (HTTP {status}): accept its licence there, and set "
            "HF_TOKEN to a token of the account that did"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{page} has no such revision"
    if status == 404:
        return f"there is no such file or dataset: {page} (HTTP 404)"
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.filename is not None:
        return str(cause)
    return f"{page}: {type(cause).__name__}: {' '.join(str(cause).split())}"


def _by_hand(source: Source, directory: Path) -> str:
    """Which files to put where."""
    lines = []
    for split, pattern in source.files.items():
        suffix = PurePosixPath(pattern).suffix
        if "://" in source.repository:
            place = f"{source.repository.rstrip('/')}/{pattern}"
        else:
            place = f"{pattern} of {source.repository}"
        line = f"  {pattern if '://' in pattern else place} as {directory / (split + suffix)}"
        several = f", or if there are several as {split}-00000-of-0000N{suffix}, … in the order of their paths"
        lines.append(line + (several if "*" in pattern else ""))
    return "Or download these files elsewhere and put them there by hand:\n" + "\n".join(lines)
