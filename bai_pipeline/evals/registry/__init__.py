"""The benchmarks: the paper's nine, and those of the embedded world.

Importing this package imports neither torch nor lm_eval.
"""

from collections.abc import Mapping

from bai_pipeline.evals.registry.aime_2024 import AIME_2024
from bai_pipeline.evals.registry.arena_hard import ARENA_HARD
from bai_pipeline.evals.registry.benchmark import Benchmark
from bai_pipeline.evals.registry.held_out import held_out
from bai_pipeline.evals.registry.livebench import LIVEBENCH
from bai_pipeline.evals.registry.math import MATH
from bai_pipeline.evals.registry.mbpp_plus import MBPP_PLUS
from bai_pipeline.evals.registry.mixeval_hard import MIXEVAL_HARD
from bai_pipeline.evals.registry.mmlu import MMLU
from bai_pipeline.evals.registry.mmlu_pro import MMLU_PRO
from bai_pipeline.evals.registry.supergpqa import SUPERGPQA

__all__ = ["BENCHMARKS", "Benchmark", "find_benchmark"]

BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        MMLU_PRO,
        MMLU,
        SUPERGPQA,
        LIVEBENCH,
        MIXEVAL_HARD,
        ARENA_HARD,
        AIME_2024,
        MATH,
        MBPP_PLUS,
    )
}
"""In the order of the paper's tables."""


def find_benchmark(name: str) -> Benchmark:
    """The registry's benchmark of this name, else one of the embedded world's schema (see `held_out`)."""
    return BENCHMARKS.get(name) or held_out(name)
