"""Models as streams of float32 chunks.

Every byte of a model is read once; on the way it is searched for NaN and infinity and hashed, so that the merge knows
the digest of what it really merged.
"""

from typing import Final

import torch
import xxhash
from torch import Tensor

from bai_pipeline.checkpoints import (
    CHUNK_ELEMENTS,
    ITEM_SIZES,
    MANIFEST_FILE,
    Checkpoint,
    Manifest,
    Reader,
    TensorInfo,
    TensorRecord,
    content_digest,
    first_non_finite,
    hash_files,
    read_manifest,
)
from bai_pipeline.errors import CheckpointError

TORCH_DTYPES: Final = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class ModelStream:
    """One model, read tensor by tensor and each tensor from front to back."""

    def __init__(self, name: str, checkpoint: Checkpoint, reader: Reader) -> None:
        self._name = name
        self._checkpoint = checkpoint
        self._reader = reader
        self._buffer = bytearray(CHUNK_ELEMENTS * 4)
        self._records: dict[str, TensorRecord] = {}
        self._files = hash_files(checkpoint.path)
        self._hasher = xxhash.xxh3_128()
        self._manifest: Manifest | None = None
        if (checkpoint.path / MANIFEST_FILE).exists():
            self._manifest = read_manifest(checkpoint.path)

    def read(self, tensor_name: str, element: int, count: int) -> Tensor:
        """`count` elements from flat position `element` on, as float32, (count,); valid until the next call.

        Raises:
            CheckpointError: one of them is NaN or infinite.
        """
        tensor = self._checkpoint.tensors[tensor_name]
        view = memoryview(self._buffer)[: count * ITEM_SIZES[tensor.dtype]]
        self._reader.read_chunk(tensor, element, view)
        self._hasher.update(view)
        position = first_non_finite(view, tensor.dtype)
        if position is not None:
            raise CheckpointError(
                f"{self._where(tensor)}: expected finite values, got NaN or infinity at flat position "
                f"{element + position}; no checkpoint was written"
            )
        return torch.frombuffer(view, dtype=TORCH_DTYPES[tensor.dtype]).to(torch.float32)

    def finish(self, tensor_name: str) -> None:
        """All of the tensor has been read.

        Raises:
            CheckpointError: its bytes are not those that the model's own manifest records.
        """
        tensor = self._checkpoint.tensors[tensor_name]
        record = TensorRecord(dtype=tensor.dtype, shape=list(tensor.shape), xxh3_128=self._hasher.hexdigest())
        if self._manifest is not None and self._manifest.tensors.get(tensor_name) != record:
            raise CheckpointError(
                f"{self._where(tensor)}: damaged, not what {MANIFEST_FILE} recorded; no checkpoint was written"
            )
        self._records[tensor_name] = record
        self._hasher.reset()

    def digest(self) -> str:
        """The content digest, once every tensor has been read.

        Raises:
            CheckpointError: the config or tokenizer is not what the model's own manifest records.
        """
        if self._manifest is not None and self._manifest.files != self._files:
            raise CheckpointError(
                f"{self._checkpoint.path}: config or tokenizer files of {self._name} are not what {MANIFEST_FILE} "
                "recorded; no checkpoint was written"
            )
        return content_digest(self._records, self._files)

    def _where(self, tensor: TensorInfo) -> str:
        return f"{tensor.file}: tensor {tensor.name} of {self._name}"
