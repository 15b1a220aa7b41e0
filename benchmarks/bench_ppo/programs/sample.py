"""Sampling alone, one batch a step. Arguments: the task's file, and where the laps go.

Option `sampler`: "embedded", ours; or "generate", transformers', with the experts implementation of option `experts`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import OlmoeForCausalLM

from bai_pipeline.native import use_native_products
from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine
from bai_pipeline.ppo.rollouts.interface import Sampling
from benchmarks.bench_ppo.task import EOS, PAD, Clock, Task


def main() -> None:
    task, out = Task.read(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    root, own = Path(task.root), task.options["sampler"] == "embedded"
    if own:
        use_native_products()  # as in a job
    experts = task.options.get("experts", "grouped_mm")
    model = OlmoeForCausalLM.from_pretrained(root / "actor", dtype=torch.float32, experts_implementation=experts)
    model.train(False)
    prompts = json.loads((root / "prompts.json").read_text())
    torch.manual_seed(task.seed)
    engine, sampling = EmbeddedEngine(model, in_place=True), Sampling(task.new_tokens, stop_token_ids=(EOS,))
    clock = Clock()
    for step in range(task.rounds):
        batch = prompts[step * task.batch_size : (step + 1) * task.batch_size]
        if own:
            count, seed = len(batch), task.seed * task.rounds + step
            clock.lap(engine.generate(batch, sampling, seed=seed, rows=range(count), total=count).lengths)
        else:
            clock.lap(generate(model, torch.tensor(batch), task.new_tokens))
    clock.write(out, task.warmup)


def generate(model: Any, prompts: torch.Tensor, new_tokens: int) -> list[int]:
    """Lengths of the responses, the end token included."""
    output = model.generate(
        prompts, max_new_tokens=new_tokens, do_sample=True, top_k=0, pad_token_id=PAD, eos_token_id=EOS
    )
    return [int(length) for length in (output[:, prompts.shape[1] :] != PAD).sum(1)]


if __name__ == "__main__":
    main()
