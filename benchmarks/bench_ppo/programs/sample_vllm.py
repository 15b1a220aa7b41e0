"""Sampling alone by vLLM on the CPU, in vLLM's environment. Arguments: the task's file, and where the laps go."""

import json
import os
import sys
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine's work is this process's
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import vllm  # type: ignore[import-not-found]  # of another environment
from vllm import LLM, SamplingParams, TokensPrompt

from benchmarks.bench_ppo.task import Clock, Task


def main() -> None:
    task, out = Task.read(sys.argv[1]), sys.argv[2]
    root = Path(task.root)
    engine = LLM(
        str(root / "actor"),
        dtype="float32",
        enforce_eager=True,
        max_model_len=task.prompt_tokens + task.new_tokens,
        max_num_seqs=task.batch_size,
        seed=task.seed,
        disable_log_stats=True,
    )
    prompts = json.loads((root / "prompts.json").read_text())
    # With log-probabilities, which PPO needs and the other samplers give.
    sampling = SamplingParams(temperature=1.0, max_tokens=task.new_tokens, logprobs=0, detokenize=False)
    clock = Clock()
    for step in range(task.rounds):
        batch = prompts[step * task.batch_size : (step + 1) * task.batch_size]
        given = [TokensPrompt(prompt_token_ids=tokens) for tokens in batch]
        outputs = engine.generate(given, sampling, use_tqdm=False)
        clock.lap([len(output.outputs[0].token_ids) for output in outputs])
    clock.write(out, task.warmup, versions={"vllm": vllm.__version__})


if __name__ == "__main__":
    main()
