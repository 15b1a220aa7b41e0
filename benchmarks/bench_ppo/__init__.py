"""PPO and its sampler: ours beside TRL's PPOTrainer and transformers' `generate`, on one tiny mixture of experts.

`make bench-ppo`, or `python -m benchmarks.bench_ppo --help`.
"""
