"""Writing safetensors files and whole directories."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bai_pipeline.checkpoints.header import TensorInfo, encode_header
from bai_pipeline.errors import CheckpointError


@dataclass(frozen=True)
class OpenTensor:
    """A tensor's place in a file that is open for writing; threads may write to different tensors at the same time."""

    file: Path
    descriptor: int
    position: int
    """The byte of the file at which the tensor begins."""

    def write(self, data: memoryview, offset: int) -> None:
        """Put bytes at this offset of the tensor.

        Raises:
            CheckpointError: the disk is full, or the file cannot be written for another reason.
        """
        done = 0
        with writing(self.file):
            while done < len(data):
                done += os.pwrite(self.descriptor, data[done:], self.position + offset + done)

    def failed(self, code: int) -> CheckpointError:
        """The error for a write that gave the system's error of this number."""
        return _unwritable(self.file, code)


class ShardFiles:
    """The safetensors files of one checkpoint; their tensors are then written in any order and by any thread.

    Args:
        directory: holds none of the files yet.
        layout: the tensors of each file in the order of their bytes; `start` and `file` are not used.

    Raises:
        CheckpointError: the disk is full.
    """

    def __init__(self, directory: Path, layout: Mapping[str, Sequence[TensorInfo]]) -> None:
        self._places: dict[str, tuple[Path, int]] = {}
        for name, tensors in layout.items():
            file, header = directory / name, encode_header(tensors)
            position = len(header)
            for tensor in tensors:
                self._places[tensor.name] = (file, position)
                position += tensor.nbytes
            with writing(file), file.open("xb") as stream:
                stream.write(header)
                stream.truncate(position)

    @contextmanager
    def open(self, tensor: str) -> Iterator[OpenTensor]:
        """The file is open as long as the block lasts.

        Raises:
            CheckpointError: it cannot be opened.
        """
        file, position = self._places[tensor]
        with writing(file):
            descriptor = os.open(file, os.O_WRONLY)
        try:
            yield OpenTensor(file, descriptor, position)
        finally:
            os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says of a failed write into an error that names the file.

    Raises:
        CheckpointError: the disk is full, a quota or a limit is reached, or the disk does not answer.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error.errno or 0) from error


def _unwritable(path: Path, code: int) -> CheckpointError:
    room = f"; {_free(path.parent)} bytes are free" if code in (errno.ENOSPC, errno.EDQUOT) else ""
    return CheckpointError(f"{path}: cannot be written: {os.strerror(code)}{room}; nothing was left behind")


def check_space(directories: Sequence[Path], nbytes: int) -> None:
    """There must be room for that many bytes in each of the directories, before the first is written.

    Raises:
        CheckpointError: there is not.
    """
    needed: dict[int, tuple[Path, int]] = {}
    for directory in directories:
        device = directory.stat().st_dev
        needed[device] = (directory, needed.get(device, (directory, 0))[1] + nbytes)
    for directory, wanted in needed.values():
        if wanted > _free(directory):
            raise CheckpointError(
                f"{directory}: no space left on the device: {wanted} bytes are needed, {_free(directory)} are free; "
                "nothing was written"
            )


def _free(directory: Path) -> int:
    """Bytes that this process may still write on the directory's file system."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@contextmanager
def whole_or_absent(destination: Path) -> Iterator[Path]:
    """A directory beside `destination` that takes its place, synced to disk, when the block ends without an error.

    What an earlier process left of the same directory when it was killed is removed first; while one is at work no
    other may begin.

    Raises:
        CheckpointError: the destination exists, another process is writing it, or the disk is full.
    """
    _refuse_existing(destination)
    made = [parent for parent in destination.parents if not parent.exists()]
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    lock = _lock(partial, destination)
    try:
        _empty(partial)
        _refuse_existing(destination)  # it may have appeared while the lock was waited for
        yield partial
        with writing(partial):
            _sync(partial)
            partial.rename(destination)
            _sync_one(destination.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)
        for parent in made if not destination.exists() else ():
            with suppress(OSError):  # not empty: somebody else has put something there
                parent.rmdir()


def _refuse_existing(destination: Path) -> None:
    if destination.exists() or destination.is_symlink():
        raise CheckpointError(f"{destination}: already exists; nothing was written")


def _lock(partial: Path, destination: Path) -> int:
    """Make the partial directory this process's own; the kernel gives it back when the process dies."""
    while True:
        partial.mkdir(exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise CheckpointError(f"{destination}: another process is writing it; nothing was written") from None
        if partial.exists() and os.path.samestat(os.fstat(descriptor), partial.stat()):
            return descriptor
        os.close(descriptor)  # renamed or removed between the two calls by whoever held the lock


@contextmanager
def emptied_on_failure(directory: Path) -> Iterator[None]:
    """An empty directory that is empty again when the block ends with an error.

    Raises:
        CheckpointError: it is not an empty directory.
    """
    if not directory.is_dir() or any(directory.iterdir()):
        raise CheckpointError(f"{directory}: expected an empty directory to write into; nothing was written")
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            _empty(directory)


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _sync(directory: Path) -> None:
    for entry in directory.rglob("*"):
        _sync_one(entry)
    _sync_one(directory)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
