"""Merge methods, one a file."""

from bai_pipeline.merging.methods.dare import DARE_LINEAR, DARE_TIES
from bai_pipeline.merging.methods.linear import LINEAR, linear
from bai_pipeline.merging.methods.registry import SCAN_ELEMENTS, Method, Place, Scan, find_method, method_names
from bai_pipeline.merging.methods.slerp import SLERP
from bai_pipeline.merging.methods.task_arithmetic import TASK_ARITHMETIC
from bai_pipeline.merging.methods.ties import TIES

__all__ = [
    "DARE_LINEAR",
    "DARE_TIES",
    "LINEAR",
    "SCAN_ELEMENTS",
    "SLERP",
    "TASK_ARITHMETIC",
    "TIES",
    "Method",
    "Place",
    "Scan",
    "find_method",
    "linear",
    "method_names",
]
