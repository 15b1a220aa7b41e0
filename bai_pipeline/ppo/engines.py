"""The two DeepSpeed engines of PPO, and the models they train."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from bai_pipeline.errors import RewardError, TrainingError
from bai_pipeline.loading import LANGUAGE_HEAD, SCORE_HEAD, load_model
from bai_pipeline.reward.model import load_reward_model, token_scores
from bai_pipeline.settings import PpoSettings

DeepSpeedConfig = Mapping[str, Any]

DEFAULT_DEEPSPEED: DeepSpeedConfig = {"zero_optimization": {"stage": 1}}
"""ZeRO 1 in float32. ZeRO 0 would do on one process, but reports no gradient norm."""

EXPERTS_IMPLEMENTATION = "grouped_mm"
"""The fastest on CPU (batched_mm is 42 times slower), and the one that does not deadlock under ZeRO 3."""

_OWNED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
)
"""Keys of a DeepSpeed config that follow from PpoSettings."""


class Critic(nn.Module):
    """V(state after token t) for every t: a sequence classifier read at every token."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) tokens, padded on the right -> (B, T) values in float32."""
        return token_scores(self.model, input_ids, torch.ones_like(input_ids))


def load_actor(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The policy to train (or, frozen, the reference), with the experts implementation that training wants.

    Raises:
        CheckpointError: the tensors in `path` are not exactly the model's.
    """
    return _with_grouped_experts(load_model(AutoModelForCausalLM, path, dtype=dtype))


def load_critic(path: Path, actor: Path, dtype: torch.dtype) -> Critic:
    """The critic to train, from a reward model or, with a zero head, from the body of a policy.

    A critic from a reward model equals it: its value at the last token of a response is the score that the model gives
    those tokens. The scorer reads text, so a response's score is this value only where encoding the decoded response
    gives its tokens back.

    Raises:
        CheckpointError: the tensors in `path` are not exactly the model's.
        RewardError: the checkpoint's tokenizer is not the actor's, so its token ids mean something else.
    """
    architectures = json.loads((path / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        model = load_reward_model(path)
    else:
        model = _zero_critic(path)
    ours, theirs = (AutoTokenizer.from_pretrained(place, local_files_only=True) for place in (actor, path))
    if ours.get_vocab() != theirs.get_vocab():
        raise RewardError(
            f"the critic cannot start from {path}: its tokenizer ({len(theirs)} tokens) is not that of the actor "
            f"{actor} ({len(ours)} tokens); set critic_init: policy"
        )
    return Critic(_with_grouped_experts(model.to(dtype)))  # type: ignore[arg-type]


def _zero_critic(policy: Path) -> PreTrainedModel:
    """A sequence classifier with the body of a policy and a head of zeros, in evaluation mode."""
    model = load_model(
        AutoModelForSequenceClassification, policy, missing={SCORE_HEAD}, unexpected={LANGUAGE_HEAD}, num_labels=1
    )
    nn.init.zeros_(cast(nn.Linear, model.score).weight)
    return model


def _with_grouped_experts(model: PreTrainedModel) -> PreTrainedModel:
    """Make the experts run as grouped matrix products, and check that they do.

    The setter of transformers refuses classes outside its own files, so the config is set directly; the experts'
    modules read it at every forward.
    """
    experts = [module for module in model.modules() if hasattr(module, "gate_up_proj")]
    for module in experts:
        config = cast(Any, module).config
        config._experts_implementation = EXPERTS_IMPLEMENTATION
        if config._experts_implementation != EXPERTS_IMPLEMENTATION:
            raise TrainingError(
                f"{type(module).__name__} of {type(model).__name__} did not take experts implementation "
                f"{EXPERTS_IMPLEMENTATION!r}; it has {config._experts_implementation!r}"
            )
    return model


def training_dtype(deepspeed: DeepSpeedConfig) -> torch.dtype:
    """bfloat16 if the DeepSpeed config enables it, else float32."""
    return torch.bfloat16 if deepspeed.get("bf16", {}).get("enabled") else torch.float32


def build_engine(module: nn.Module, settings: PpoSettings, *, learning_rate: float, deepspeed: DeepSpeedConfig) -> Any:
    """A DeepSpeed engine with torch's AdamW, linear warm-up over optimizer updates and a constant rate after.

    Args:
        module: the model to train.
        learning_rate: after warm-up.
        deepspeed: a DeepSpeed config without the keys that `settings` decides.

    Raises:
        TrainingError: the config has such a key, or more than one rank was started.
    """
    owned = [key for key in _OWNED if key in deepspeed]
    if owned:
        raise TrainingError(f"the DeepSpeed config sets {', '.join(owned)}, which the study's ppo settings decide")
    initialize = _deepspeed_initialize()
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
    )
    warmup = settings.warmup_updates
    config = {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        **deepspeed,
        "train_micro_batch_size_per_gpu": settings.mini_batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
    }
    engine, *_ = initialize(
        model=module,
        optimizer=optimizer,
        config=config,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(1, warmup))),
    )
    return engine


def _deepspeed_initialize() -> Any:
    """`deepspeed.initialize`, in a process that is ready for it.

    The process becomes a world of one over an in-memory store, which needs no port. On CPU `deepspeed_shm_comm`, a C++
    extension for ranks that share a machine, is declared incompatible: compiling it takes minutes, and one rank has
    nobody to talk to.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) != 1:
        raise TrainingError(f"PPO runs on one rank, WORLD_SIZE is {os.environ['WORLD_SIZE']}")
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not distributed.is_initialized():
        store = distributed.HashStore()  # type: ignore[attr-defined]
        distributed.init_process_group("gloo" if on_cpu else "nccl", store=store, rank=0, world_size=1)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if on_cpu:
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed.initialize
