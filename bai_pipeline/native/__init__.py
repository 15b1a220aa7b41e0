"""Native code for computing on CPUs in float32, where that is faster than torch. Imports torch."""

from bai_pipeline.native.library import Native, load_native
from bai_pipeline.native.products import use_native_products

__all__ = ["Native", "load_native", "use_native_products"]
