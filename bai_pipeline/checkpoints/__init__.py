"""Safetensors checkpoints: read without trust, compared, verified, written whole. Imports no torch."""

from bai_pipeline.checkpoints.checkpoint import CHUNK_ELEMENTS, Checkpoint, Reader, open_tensor
from bai_pipeline.checkpoints.finite import check_finite, first_non_finite
from bai_pipeline.checkpoints.fit import FitReport, check_fit, compare
from bai_pipeline.checkpoints.header import ITEM_SIZES, TensorInfo, encode_header, read_header
from bai_pipeline.checkpoints.manifest import (
    MANIFEST_FILE,
    RECIPE_FILE,
    Manifest,
    TensorRecord,
    content_digest,
    describe,
    hash_files,
    hash_tensor,
    read_manifest,
    write_manifest,
)
from bai_pipeline.checkpoints.verification import checkpoint_digest, remember_digest, stamp_of, verify
from bai_pipeline.checkpoints.writing import (
    OpenTensor,
    ShardFiles,
    check_space,
    emptied_on_failure,
    whole_or_absent,
    writing,
)

__all__ = [
    "CHUNK_ELEMENTS",
    "ITEM_SIZES",
    "MANIFEST_FILE",
    "RECIPE_FILE",
    "Checkpoint",
    "FitReport",
    "Manifest",
    "OpenTensor",
    "Reader",
    "ShardFiles",
    "TensorInfo",
    "TensorRecord",
    "check_finite",
    "check_fit",
    "check_space",
    "checkpoint_digest",
    "compare",
    "content_digest",
    "describe",
    "emptied_on_failure",
    "encode_header",
    "first_non_finite",
    "hash_files",
    "hash_tensor",
    "open_tensor",
    "read_header",
    "read_manifest",
    "remember_digest",
    "stamp_of",
    "verify",
    "whole_or_absent",
    "write_manifest",
    "writing",
]
