"""Benchmark scores of checkpoints, and the tables made of them.

Importing this package imports neither torch nor lm_eval; `evaluate` does when it is called.
"""

from bai_pipeline.evals.benchmarks import BenchmarkProblem, read_benchmark
from bai_pipeline.evals.evaluation import evaluate
from bai_pipeline.evals.seeds import Estimate, combine_benchmarks, combine_seeds
from bai_pipeline.evals.tables import paper_paradigm_table, paper_ratio_table, paradigm_table, ratio_table
from bai_pipeline.evals.writing import to_markdown, write_table

__all__ = [
    "BenchmarkProblem",
    "Estimate",
    "combine_benchmarks",
    "combine_seeds",
    "evaluate",
    "paper_paradigm_table",
    "paper_ratio_table",
    "paradigm_table",
    "ratio_table",
    "read_benchmark",
    "to_markdown",
    "write_table",
]
