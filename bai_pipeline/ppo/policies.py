"""Actors and critics as plain Hugging Face directories, and the ones that a run keeps."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel

from bai_pipeline.checkpoints.directory import tokenizer_files
from bai_pipeline.ppo.engines import Critic, whole_state
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.store.files import fsync_directory, fsync_tree, write_atomically


def model_name(step: int) -> str:
    """Directory name of the model after `step` steps."""
    return f"step-{step:06d}"


def save_model(
    model: PreTrainedModel, tokenizer_from: Path, out: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write weights (safetensors), config and generation config; copy the tokenizer of `tokenizer_from` unchanged.

    Args:
        state: the weights, where the model itself does not hold them whole.
    """
    with quiet_transformers():
        model.save_pretrained(out, state_dict=None if state is None else dict(state))
    for name, source in tokenizer_files(tokenizer_from).items():
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, out / name)


@dataclass(frozen=True)
class TrainedModels:
    """Where the models of a run come from when they are kept."""

    actor: PreTrainedModel
    critic: Critic
    tokenizer_from: Path


Reason = Literal["evaluated", "end", "best"]
"""Why a model is kept: tables use it, a call ended there, or its scores were the best so far."""


class KeptModels:
    """Actors and critics that outlive the training state, under one directory.

        policies/step-000020/  critics/step-000020/     each whole or absent
        kept.json                                       {step: reasons}

    All ranks call everything together; the first one writes.
    """

    def __init__(self, root: Path, ranks: Ranks) -> None:
        self._root, self._ranks = root, ranks
        if ranks.is_first:
            for directory in (self._root / "policies", self._root / "critics"):
                directory.mkdir(parents=True, exist_ok=True)
                for leftover in directory.glob(".*"):
                    shutil.rmtree(leftover)
        ranks.barrier()

    def steps(self) -> list[int]:
        """Steps after which both models are kept, ascending."""
        found: list[int] = self._ranks.agree(sorted(step for step in self._reasons() if self._is_whole(step)))
        return found

    def best(self) -> int | None:
        """The step whose models were kept as the best."""
        steps = [step for step, reasons in self._reasons().items() if "best" in reasons]
        best: int | None = self._ranks.agree(steps[0] if steps else None)
        return best

    def resume(self, step: int) -> None:
        """Drop the models from after `step`: they will be made again."""
        for later in self._ranks.agree(sorted(self._reasons())):
            if later > step:
                self._change(later, lambda reasons: set())

    def save(self, step: int, reason: Reason, models: TrainedModels) -> None:
        """Keep the models after `step` steps for this reason; they are written unless they are there."""
        self._change(step, lambda reasons: reasons | {reason})
        if step in self.steps():
            return
        critic = models.critic
        self._write(critic.model, models.tokenizer_from, self.critic(step), critic.offset)
        self._write(models.actor, models.tokenizer_from, self.policy(step))
        self._ranks.barrier()

    def release(self, step: int, reason: Reason) -> None:
        """Keep the models no longer for this reason."""
        self._change(step, lambda reasons: reasons - {reason})

    def policy(self, step: int) -> Path:
        """Where the actor after `step` steps is, if it is kept."""
        return self._root / "policies" / model_name(step)

    def critic(self, step: int) -> Path:
        """Where the critic after `step` steps is, if it is kept."""
        return self._root / "critics" / model_name(step)

    def _is_whole(self, step: int) -> bool:
        return self.policy(step).exists() and self.critic(step).exists()

    def _reasons(self) -> dict[int, set[str]]:
        path = self._root / "kept.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {int(step): set(reasons) for step, reasons in known.items()}

    def _change(self, step: int, change: Callable[[set[str]], set[str]]) -> None:
        """Give a step other reasons; without any its models go."""
        self._ranks.barrier()
        if self._ranks.is_first:
            known = self._reasons()
            reasons = change(known.pop(step, set()))
            kept = {**known, step: reasons} if reasons else known
            text = {str(number): sorted(kept[number]) for number in sorted(kept)}
            write_atomically(self._root / "kept.json", json.dumps(text, indent=1))
            for path in (self.policy(step), self.critic(step)):
                if not reasons and path.exists():
                    hidden = path.with_name(f".{path.name}")
                    path.rename(hidden)
                    shutil.rmtree(hidden)
        self._ranks.barrier()

    def _write(self, model: PreTrainedModel, tokenizer_from: Path, path: Path, offset: float = 0.0) -> None:
        state = whole_state(model, keep=self._ranks.is_first)
        if not self._ranks.is_first or path.exists():
            return
        config = model.config
        shift = float(getattr(config, "score_shift", 0.0))
        temporary = path.with_name(f".{path.name}")
        if offset:  # (raw - shift) / scale + offset, in the terms of a reward model's config
            config.score_shift = shift - offset * float(getattr(config, "score_scale", 1.0))
        try:
            save_model(model, tokenizer_from, temporary, state)
        finally:
            if offset:
                config.score_shift = shift
        fsync_tree(temporary)
        temporary.rename(path)
        fsync_directory(path.parent)
