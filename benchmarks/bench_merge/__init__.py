"""Merging three checkpoints: `bai merge` beside copying, mergekit and a plain transformers script.

`make bench-merge` (SIZE=2 in gigabytes), or `python -m benchmarks.bench_merge --help`.
"""
