"""What the merged models turned out to be, byte by byte, against what they say of themselves and what was expected."""

from collections.abc import Mapping
from pathlib import Path

from bai_pipeline.checkpoints import (
    MANIFEST_FILE,
    Checkpoint,
    Manifest,
    TensorInfo,
    TensorRecord,
    content_digest,
    hash_files,
    read_manifest,
    remember_digest,
    stamp_of,
)
from bai_pipeline.checkpoints.directory import is_there
from bai_pipeline.errors import CheckpointError


class Parent:
    """One merged model; its tensors are recorded as they are read, in any order and by any thread."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.name = name
        self.checkpoint = checkpoint
        self._stamp = stamp_of(checkpoint)
        self._files = hash_files(checkpoint.path)
        self._records: dict[str, TensorRecord] = {}
        self.manifest: Manifest | None = None
        if is_there(checkpoint.path / MANIFEST_FILE):
            self.manifest = read_manifest(checkpoint.path)
            self._check_manifest(self.manifest)

    def record(self, tensor: TensorInfo, record: TensorRecord) -> None:
        """All bytes of a tensor have been read.

        Raises:
            CheckpointError: they are not those that the model's own manifest records.
        """
        if self.manifest is not None and self.manifest.tensors[tensor.name] != record:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name} of {self.name}: damaged, not what {MANIFEST_FILE} recorded; no "
                "checkpoint was written"
            )
        self._records[tensor.name] = record

    def digest(self, expected: str | None, cache: Path | None) -> str:
        """The content digest, once every tensor has been read; `cache` remembers it (see `checkpoint_digest`).

        Raises:
            CheckpointError: the files changed meanwhile, or the digest is not the expected one.
        """
        path = self.checkpoint.path
        try:
            unchanged = stamp_of(self.checkpoint) == self._stamp
        except OSError as error:
            raise CheckpointError(
                f"{error.filename}: {self.name} cannot be read any more: {error.strerror}; no checkpoint was written"
            ) from error
        if not unchanged:
            raise CheckpointError(f"{path}: {self.name} changed while it was merged; no checkpoint was written")
        digest = content_digest(self._records, self._files)
        if expected is not None and digest != expected:
            raise CheckpointError(
                f"{self.name} has the content digest {digest}, expected {expected}: it has changed since the merge was "
                "ordered; no checkpoint was written"
            )
        if cache is not None:
            remember_digest(path, self._stamp, digest, cache)
        return digest

    def _check_manifest(self, manifest: Manifest) -> None:
        """What can be known before a tensor is read."""
        path = self.checkpoint.path
        files, known = self._files, manifest.files
        if other := [name for name in sorted(files.keys() | known.keys()) if files.get(name) != known.get(name)]:
            raise CheckpointError(
                f"{path}: config or tokenizer files of {self.name} are not what {MANIFEST_FILE} recorded: "
                f"{', '.join(other)}; no checkpoint was written"
            )
        found = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in self.checkpoint.tensors.items()}
        recorded = {name: (tensor.dtype, tensor.shape) for name, tensor in manifest.tensors.items()}
        for name in sorted(found.keys() | recorded.keys()):
            mine, theirs = found.get(name), recorded.get(name)
            if mine != theirs:
                shown, expected = ("absent" if it is None else f"{it[0]} of shape {it[1]}" for it in (mine, theirs))
                raise CheckpointError(
                    f"{path / MANIFEST_FILE}: tensor {name} of {self.name} is {shown}, recorded as {expected}; no "
                    "checkpoint was written"
                )


def open_parents(checkpoints: Mapping[str, Checkpoint], models: tuple[str, ...]) -> dict[str, Parent]:
    """The merged models by name.

    Raises:
        CheckpointError: one is not what its own manifest records, as far as that is known before a tensor is read.
    """
    return {name: Parent(name, checkpoints[name]) for name in models}
