"""Benchmark scores of checkpoints, and the tables made of them.

registry (a file a benchmark), engines (who answers), judging (a judge model), code (sandboxes for programs), livebench
(its rules); evaluation drives them, samples, comparisons, tables and writing show what came out.

Importing this package imports neither torch nor lm_eval; `evaluate_checkpoint` does when it is called.
"""

from bai_pipeline.evals.case_studies import case_studies, write_case_studies
from bai_pipeline.evals.comparisons import best_rows, paired_comparisons
from bai_pipeline.evals.contamination import Contamination, contamination_markdown, find_contamination
from bai_pipeline.evals.registry import BENCHMARKS, Benchmark, find_benchmark
from bai_pipeline.evals.running import evaluate_checkpoint
from bai_pipeline.evals.samples import question_table, read_samples
from bai_pipeline.evals.seeds import Estimate, combine_benchmarks, combine_seeds
from bai_pipeline.evals.splits import question_texts, read_benchmark, write_benchmark
from bai_pipeline.evals.tables import paper_paradigm_table, paper_ratio_table, paradigm_table, ratio_table
from bai_pipeline.evals.writing import to_markdown, write_table

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Contamination",
    "Estimate",
    "best_rows",
    "case_studies",
    "combine_benchmarks",
    "combine_seeds",
    "contamination_markdown",
    "evaluate_checkpoint",
    "find_benchmark",
    "find_contamination",
    "paired_comparisons",
    "paper_paradigm_table",
    "paper_ratio_table",
    "paradigm_table",
    "question_table",
    "question_texts",
    "ratio_table",
    "read_benchmark",
    "read_samples",
    "to_markdown",
    "write_benchmark",
    "write_case_studies",
    "write_table",
]
