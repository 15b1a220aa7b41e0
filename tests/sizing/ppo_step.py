"""`python ppo_step.py DIRECTORY`: one PPO step of a random model; prints the most memory that the process had."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bai_pipeline.settings import ModelSettings
from bai_pipeline.study import load_study

SETTINGS = load_study("micro").ppo.model_copy(
    update={
        "batch_size": 4,
        "mini_batch_size": 2,
        "max_prompt_tokens": 16,
        "max_new_tokens": 24,
        "sample_every": 0,
        "probe_tolerance": 1e-2,
    }
)
MODEL = ModelSettings(
    num_hidden_layers=4,
    hidden_size=256,
    num_attention_heads=8,
    num_experts=16,
    num_experts_per_tok=2,
    intermediate_size=512,
    max_position_embeddings=64,
)


def main(root: Path) -> None:
    import torch

    from bai_pipeline.ppo import Parallelism
    from bai_pipeline.ppo.trainer import PpoTrainer
    from bai_pipeline.reward.scorers import Messages
    from bai_pipeline.synthetic.olmoe import build_olmoe
    from bai_pipeline.synthetic.tokenizer import build_tokenizer
    from bai_pipeline.tables import write_table

    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    build_olmoe(MODEL, tokenizer, seed=0).save_pretrained(root / "actor")
    tokenizer.save_pretrained(root / "actor")
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"sum a {n}"}], "answer": None, "verifier": None}
        for n in range(4)
    ]
    write_table(rows, root / "prompts.parquet")
    Path("/proc/self/clear_refs").write_text("5")  # what building the model took is no part of PPO

    def score(
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        return [float(len(response) % 5) for response in responses]

    trainer = PpoTrainer(
        root / "actor", root / "actor", None, root / "prompts.parquet", score, SETTINGS, 0, Parallelism()
    )
    trainer.step(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"peak": int(status["VmHWM"].split()[0]) * 1024}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]))
