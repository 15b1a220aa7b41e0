"""Safetensors checkpoints: read without trust, compared, verified, written whole. Imports no torch."""

from bai_pipeline.checkpoints.checkpoint import CHUNK_ELEMENTS, Checkpoint, Reader
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
    read_manifest,
    write_manifest,
)
from bai_pipeline.checkpoints.verification import checkpoint_digest, verify
from bai_pipeline.checkpoints.writing import ShardWriter, emptied_on_failure, whole_or_absent

__all__ = [
    "CHUNK_ELEMENTS",
    "ITEM_SIZES",
    "MANIFEST_FILE",
    "RECIPE_FILE",
    "Checkpoint",
    "FitReport",
    "Manifest",
    "Reader",
    "ShardWriter",
    "TensorInfo",
    "TensorRecord",
    "check_finite",
    "check_fit",
    "checkpoint_digest",
    "compare",
    "content_digest",
    "describe",
    "emptied_on_failure",
    "encode_header",
    "first_non_finite",
    "hash_files",
    "read_header",
    "read_manifest",
    "verify",
    "whole_or_absent",
    "write_manifest",
]
