"""One PPO step of a random model, in processes of its own.

`python ppo_step.py build JSON` writes the model and its prompts; `python ppo_step.py step JSON`, one for each rank,
takes the step and prints the most memory that the process had. JSON: {root, model, precision, parallelism}.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bai_pipeline.settings import ModelSettings
from bai_pipeline.study import load_study

SETTINGS = load_study("micro").ppo.model_copy(
    update={
        "batch_size": 4,
        "mini_batch_size": 2,
        "max_prompt_tokens": 16,
        "max_new_tokens": 24,
        "sample_every": 0,
        "probe_tolerance": 0.1,
    }
)


def build(root: Path, model: ModelSettings) -> None:
    from bai_pipeline.synthetic.olmoe import build_olmoe
    from bai_pipeline.synthetic.tokenizer import build_tokenizer
    from bai_pipeline.tables import write_table

    tokenizer = build_tokenizer()
    build_olmoe(model, tokenizer, seed=0).save_pretrained(root / "actor")
    tokenizer.save_pretrained(root / "actor")
    rows = [
        {"id": str(n), "messages": [{"role": "user", "content": f"sum a {n}"}], "answer": None, "verifier": None}
        for n in range(4)
    ]
    write_table(rows, root / "prompts.parquet")


def step(root: Path, precision: str, parallelism: dict[str, Any]) -> None:
    import torch

    from bai_pipeline.ppo import Parallelism
    from bai_pipeline.ppo.trainer import PpoTrainer
    from bai_pipeline.reward.scorers import Messages

    torch.set_num_threads(1)

    def score(
        prompts: Sequence[Messages],
        responses: Sequence[str],
        answers: Sequence[str | None],
        truncated: Sequence[bool] | None = None,
    ) -> list[float]:
        return [float(len(response) % 5) for response in responses]

    actor = root / "actor"
    trainer = PpoTrainer(actor, actor, None, root / "prompts.parquet", score, SETTINGS, 0, Parallelism(**parallelism))
    record = trainer.step(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps({"peak": peak, "grad_norm_actor": record.steps["grad_norm_actor"]}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    given = json.loads(sys.argv[2])
    if sys.argv[1] == "build":
        build(Path(given["root"]), ModelSettings(**given["model"]))
    else:
        step(Path(given["root"]), given["precision"], given["parallelism"])
