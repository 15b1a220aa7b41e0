"""Tokens per CPU second: the embedded sampler against transformers' `generate`, on the same tiny OLMoE and prompts.

Interleaved rounds, one thread, medians; the machine's noise hits all alike. Responses end by themselves or at 128
tokens. Writes benchmarks/results/sampler-DATE.json with the commit.
"""

import json
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bai_pipeline.ppo.decoders import Decoder, HuggingFaceDecoder
from bai_pipeline.ppo.sampler import sample
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer

ROUNDS = 5
BATCH = 128
PROMPT_TOKENS = 12
NEW_TOKENS = 128
PAD, EOS = 0, 2


def measure() -> dict[str, float]:
    """Median tokens per CPU second by contender."""
    torch.set_num_threads(1)
    settings = load_study("micro").model
    model = build_olmoe(settings, build_tokenizer(settings.max_position_embeddings), seed=0)
    model.train(False)
    prompts = torch.randint(3, model.config.vocab_size, (BATCH, PROMPT_TOKENS)).tolist()
    numbers = torch.Generator().manual_seed(0)

    def own_loop(decoder: Decoder | None) -> int:
        ends = {"eos_token_id": EOS, "pad_token_id": PAD}
        return sum(sample(model, prompts, NEW_TOKENS, **ends, generator=numbers, decoder=decoder).lengths)

    def generate() -> int:
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0}
        untyped: Any = model  # transformers' annotation of generate's self is too narrow for its own models
        output = untyped.generate(torch.tensor(prompts), pad_token_id=PAD, eos_token_id=EOS, **options)[
            :, PROMPT_TOKENS:
        ]
        return int((output != PAD).sum())

    contenders: dict[str, Callable[[], int]] = {
        "embedded sampler": lambda: own_loop(None),
        "same loop over transformers' forward": lambda: own_loop(HuggingFaceDecoder(model)),
        "transformers generate": generate,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, contender in contenders.items():
            start = time.process_time()
            tokens = contender()
            rates[name].append(tokens / (time.process_time() - start))
    return {name: median(values) for name, values in rates.items()}


def main() -> None:
    rates = measure()
    slowest = rates["transformers generate"]
    for name, rate in rates.items():
        print(f"{name:40s} {rate:8.0f} tokens per CPU second, {rate / slowest:.2f}x generate")
    now = datetime.now(UTC)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "tokens_per_cpu_second": rates,
    }
    path = Path(__file__).parent / "results" / f"sampler-{now:%Y-%m-%d}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
