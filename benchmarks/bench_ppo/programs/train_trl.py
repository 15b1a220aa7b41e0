"""Steps of TRL's PPOTrainer, in TRL's environment. Arguments: the task's file, and where the laps go.

Options: `experts` (experts implementation), `rollout_batch` (rows that are sampled and scored together, default all),
`forward_cache` (false: the forward passes of scoring and training build no key-value cache; TRL's own way is true).
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
import transformers
import trl  # type: ignore[import-not-found]  # of another environment
from datasets import Dataset
from transformers import AutoTokenizer, OlmoeForCausalLM, PrinterCallback, TrainerCallback
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.olmoe.modeling_olmoe import OlmoePreTrainedModel
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # type: ignore[import-not-found]

from benchmarks.bench_ppo.task import EOS, Clock, Task


class OlmoeForSequenceClassification(  # type: ignore[no-untyped-call]
    GenericForSequenceClassification, OlmoePreTrainedModel
):
    """OLMoE with a score head; its experts may run in every way that OLMoE's may."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return OlmoePreTrainedModel._can_set_experts_implementation()


class Timing(TrainerCallback):
    """Laps between the ends of TRL's updates; marks where sampling and estimating end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lengths: list[int] = []
        batch_generation, masked_whiten = ppo_trainer.batch_generation, ppo_trainer.masked_whiten

        def generation(model: Any, queries: Any, *arguments: Any) -> Any:
            output = batch_generation(model, queries, *arguments)
            clock.mark("sample")
            self._lengths = lengths(output[0][:, queries.shape[1] :])
            return output

        def whiten(*arguments: Any, **options: Any) -> Any:
            output = masked_whiten(*arguments, **options)
            clock.mark("estimate")
            return output

        ppo_trainer.batch_generation, ppo_trainer.masked_whiten = generation, whiten

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.restart()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.mark("update")
        self._clock.lap(self._lengths)


def main() -> None:
    task, out = Task.read(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    root, clock = Path(task.root), Clock()
    prompts = Dataset.from_dict({"input_ids": json.loads((root / "prompts.json").read_text())})
    with tempfile.TemporaryDirectory() as directory:
        trainer = PPOTrainer(
            args=config(task, directory),
            processing_class=AutoTokenizer.from_pretrained(root / "actor"),
            model=loaded(OlmoeForCausalLM, root / "actor", task),
            ref_model=loaded(OlmoeForCausalLM, root / "actor", task),
            reward_model=loaded(OlmoeForSequenceClassification, root / "reward", task),
            value_model=loaded(OlmoeForSequenceClassification, root / "reward", task),
            train_dataset=prompts,
            eval_dataset=prompts.select(range(8)),  # never used, but asked for
            callbacks=[Timing(clock)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    (updates,) = {int(state["step"]) for state in trainer.optimizer.optimizer.state.values()}
    assert updates == task.rounds * task.batch_size // task.mini_batch_size, updates
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    clock.write(out, task.warmup, versions=versions)


def config(task: Task, directory: str) -> Any:
    """Nothing beside training: no evaluation, no sample completions, no checkpoints, no gradient checkpointing.

    A mini-batch is one micro-batch: with gradient accumulation TRL would update the weights only once a step, whatever
    `num_mini_batches` says.
    """
    return PPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        seed=task.seed,
        per_device_train_batch_size=task.batch_size,
        gradient_accumulation_steps=1,
        num_mini_batches=task.batch_size // task.mini_batch_size,
        num_ppo_epochs=1,
        total_episodes=task.rounds * task.batch_size,
        response_length=task.new_tokens,
        stop_token="eos" if task.eos_probability else None,
        local_rollout_forward_batch_size=task.options.get("rollout_batch") or task.batch_size,
        temperature=1.0,
        learning_rate=1e-6,
        kl_coef=0.05,
        gamma=1.0,
        lam=0.95,
        cliprange=0.2,
        cliprange_value=0.2,
        weight_decay=0.0,
        gradient_checkpointing=False,
        num_sample_generations=0,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def loaded(kind: Any, path: Path, task: Task) -> Any:
    model = kind.from_pretrained(path, dtype=torch.float32, experts_implementation=task.options["experts"])
    for module in model.modules():
        if hasattr(module, "gate_up_proj"):
            assert module.config._experts_implementation == task.options["experts"]
    if not task.options.get("forward_cache", True):
        model.config.use_cache = False
    return model


def lengths(responses: torch.Tensor) -> list[int]:
    """Tokens of each response, the end token included; responses (B, T)."""
    ended = responses == EOS
    first = ended.int().argmax(1) + 1
    return [int(length) for length in torch.where(ended.any(1), first, responses.shape[1])]


if __name__ == "__main__":
    main()
