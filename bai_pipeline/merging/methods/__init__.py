"""Merge methods, one a file."""

from bai_pipeline.merging.methods.linear import linear
from bai_pipeline.merging.methods.registry import Method, find_method

__all__ = ["Method", "find_method", "linear"]
