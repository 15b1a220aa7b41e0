"""Tokens per CPU second: the embedded rollout engine against transformers' `generate`, same tiny OLMoE and prompts.

Responses of 128 tokens, and responses that end by themselves before. Interleaved rounds, one thread, medians; the
machine's noise hits all alike. Writes benchmarks/results/sampler-DATE.json with the commit.
"""

import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import OlmoeForCausalLM

from bai_pipeline.ppo.decoders import HuggingFaceDecoder
from bai_pipeline.ppo.rollouts.embedded import EmbeddedEngine
from bai_pipeline.ppo.rollouts.interface import Sampling
from bai_pipeline.ppo.sampler import sample_responses
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer

ROUNDS = 5
BATCH = 64
PROMPT_TOKENS = 12
NEW_TOKENS = 128
PAD, EOS = 0, 2
NO_TOKEN = -1

SIZES: dict[str, dict[str, int]] = {
    "2 layers of 64": {},
    "4 layers of 128": {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 128},
}
"""What differs from the model of the micro study (8 experts, 2 of them per token)."""

LENGTHS = {f"{NEW_TOKENS} tokens": NO_TOKEN, "natural end": EOS}
"""The token that ends a response."""

BASELINE = "generate, eager experts"

Contender = Callable[[int, int], list[int]]
"""(stop token, seed) -> lengths of the responses."""


def build_model(changes: dict[str, int]) -> OlmoeForCausalLM:
    settings = load_study("micro").model.model_copy(update=changes)
    model = build_olmoe(settings, build_tokenizer(settings.max_position_embeddings), seed=0)
    model.train(False)
    return model


def contenders(model: OlmoeForCausalLM, prompts: list[list[int]]) -> dict[str, Contender]:
    """By name; `generate` with the experts as a loop over them and as transformers chooses on this machine."""
    rows = range(len(prompts))

    def embedded(stop: int, seed: int, *, slots: int | None) -> list[int]:
        engine = EmbeddedEngine(model, in_place=True, slots=slots)
        sampling = Sampling(NEW_TOKENS, stop_token_ids=(stop,))
        return engine.generate(prompts, sampling, seed=seed, rows=rows, total=len(prompts)).lengths

    def same_loop(stop: int, seed: int) -> list[int]:
        return sample_responses(
            model,
            prompts,
            Sampling(NEW_TOKENS, stop_token_ids=(stop,)),
            generator=torch.Generator().manual_seed(seed),
            rows=rows,
            total=len(prompts),
            decoder=HuggingFaceDecoder(model),
        ).lengths

    def generate(stop: int, seed: int, *, experts: str) -> list[int]:
        torch.manual_seed(seed)
        untyped: Any = model  # transformers' annotation of generate's self is too narrow for its own models
        untyped.set_experts_implementation(experts)
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0, "pad_token_id": PAD}
        output = untyped.generate(torch.tensor(prompts), eos_token_id=stop, **options)[:, PROMPT_TOKENS:]
        return [row.index(stop) + 1 if stop in row else len(row) for row in output.tolist()]

    return {
        "embedded": partial(embedded, slots=None),
        "embedded, 16 slots": partial(embedded, slots=16),
        "same loop over transformers' forward": same_loop,
        BASELINE: partial(generate, experts="eager"),
        "generate, grouped experts": partial(generate, experts="grouped_mm"),
    }


def measure() -> list[dict[str, Any]]:
    """Median tokens per CPU second by model, length and contender, and the ratio to the baseline."""
    torch.set_num_threads(1)
    rows = []
    for size, changes in SIZES.items():
        model = build_model(changes)
        numbers = torch.Generator().manual_seed(0)
        prompts = torch.randint(3, model.config.vocab_size, (BATCH, PROMPT_TOKENS), generator=numbers).tolist()
        for length, stop in LENGTHS.items():
            rates: dict[str, list[float]] = {}
            for seed in range(ROUNDS):
                for name, contender in contenders(model, prompts).items():
                    start = time.process_time()
                    lengths = contender(stop, seed)
                    rates.setdefault(name, []).append(sum(lengths) / (time.process_time() - start))
            medians = {name: median(values) for name, values in rates.items()}
            rows += [
                {
                    "model": size,
                    "length": length,
                    "sampler": name,
                    "tokens_per_cpu_second": round(rate),
                    "times_baseline": round(rate / medians[BASELINE], 2),
                }
                for name, rate in medians.items()
            ]
    return rows


def main() -> None:
    rows = measure()
    for row in rows:
        print(
            f"{row['model']:16s} {row['length']:12s} {row['sampler']:40s} {row['tokens_per_cpu_second']:8d} tokens per "
            f"CPU second, {row['times_baseline']:.2f}x {BASELINE}"
        )
    now = datetime.now(UTC)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "batch": BATCH,
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / f"sampler-{now:%Y-%m-%d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
