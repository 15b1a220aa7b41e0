"""The two DeepSpeed engines of PPO, and the models they train.

The same code serves one CPU process and many GPUs: ZeRO 0 to 3, float32 and bfloat16, offloading, accumulation of
gradients and activation checkpointing change where numbers lie and when they are computed, never what is computed.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from bai_pipeline.errors import RewardError, TrainingError
from bai_pipeline.loading import LANGUAGE_HEAD, SCORE_HEAD, load_model
from bai_pipeline.loading.unpadded import read_unpadded
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.reward.model import load_reward_model, token_scores
from bai_pipeline.settings import PpoSettings

DeepSpeedConfig = Mapping[str, Any]


@dataclass(frozen=True)
class Parallelism:
    """How models are spread over the ranks and held in memory; changes no result but by rounding."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    deepspeed: DeepSpeedConfig = field(default_factory=dict)
    """The user's DeepSpeed JSON: offloading, bucket sizes, …; without the keys that the study decides."""
    micro_batch_size: int | None = None
    """Responses that a rank's model reads at once in training; None: its whole share of a mini-batch."""
    activation_checkpointing: bool = False
    """Compute the activations of a layer again in the backward pass."""
    frozen: Literal["plain", "zero3"] = "plain"
    """The reference model: whole on every rank, or spread over the ranks."""


EXPERTS_IMPLEMENTATION = "grouped_mm"
"""The fastest on CPU (batched_mm is 42 times slower), and the one that does not deadlock under ZeRO 3."""

_OWNED = (
    "bf16",
    "fp16",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
)
"""Keys of a DeepSpeed config that follow from PpoSettings and Parallelism."""


class Critic(nn.Module):
    """V(state after token t) for every t: a sequence classifier read at every token, and a constant."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.offset = 0.0
        """Added to every value (critic calibration); part of the run's state, not of the model's weights."""

    def forward(self, input_ids: Tensor, **reading: Any) -> Tensor:
        """(B, T) tokens, `unpadded` or padded on the right -> (B, T) values in float32."""
        return token_scores(self.model, input_ids, **reading) + self.offset


def load_actor(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The policy to train (or, frozen, the reference), with the experts implementation that training wants.

    Raises:
        CheckpointError: the tensors in `path` are not exactly the model's.
    """
    return read_unpadded(_with_grouped_experts(load_model(AutoModelForCausalLM, path, dtype=dtype)))


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
    return Critic(read_unpadded(_with_grouped_experts(model.to(dtype))))  # type: ignore[arg-type]


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


def training_dtype(settings: PpoSettings) -> torch.dtype:
    """Of the parameters in training."""
    return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32


def build_engine(module: nn.Module, settings: PpoSettings, *, learning_rate: float, parallelism: Parallelism) -> Any:
    """A DeepSpeed engine with AdamW, linear warm-up over optimizer updates and a constant rate after.

    Args:
        module: the model to train, whole on every rank.
        learning_rate: after warm-up.

    Raises:
        TrainingError: the DeepSpeed config has a key that the study decides.
    """
    optimizer = _adamw_class(parallelism)(
        module.parameters(),
        lr=learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        weight_decay=settings.weight_decay,
    )
    warmup = settings.warmup_updates
    config = {
        **_config(parallelism, parallelism.zero_stage, settings),
        "gradient_clipping": settings.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if parallelism.zero_stage == 3:
        _mark_leaves(module)
    if parallelism.activation_checkpointing:
        _checkpoint_activations(module)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / max(1, warmup)))
    return _initialize(model=module, optimizer=optimizer, config=config, lr_scheduler=schedule)


def freeze(model: PreTrainedModel, settings: PpoSettings, parallelism: Parallelism, device: torch.device) -> nn.Module:
    """A model that is only read: whole on this rank, or its parameters spread over all (ZeRO inference)."""
    model.requires_grad_(False)
    if parallelism.frozen == "plain":
        model.to(device)  # type: ignore[arg-type]
        return model
    _mark_leaves(model)
    config = _config(parallelism, 3, settings)
    offload = config["zero_optimization"]
    offload.pop("offload_optimizer", None)
    module: nn.Module = _initialize(model=model, config=config).module
    return module


def backward(engine: Any, loss: Tensor, *, last: bool) -> None:
    """Add the gradient of a micro-batch's loss; of the `last` one of an update too.

    DeepSpeed takes the mean over the ranks, so a loss that is a rank's part of a sum is multiplied by their number.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)


def update(engine: Any) -> float:
    """One optimizer step on the gradients so far; returns their norm before clipping."""
    norm = None
    if engine.zero_optimization_stage() == 0:  # where DeepSpeed keeps none
        grads = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
    engine.step()
    return float(engine.get_global_grad_norm() if norm is None else norm)


def is_spread(module: nn.Module) -> bool:
    """Whether its parameters lie in parts on several ranks (ZeRO 3)."""
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def whole_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters by name, each whole while it is the present one. Under ZeRO 3 all ranks go through all of it."""
    for name, parameter in module.named_parameters():
        with _gathered(parameter):
            yield name, parameter.detach()


def whole_state(module: nn.Module, *, keep: bool) -> dict[str, Tensor] | None:
    """All parameters on the CPU, for the rank that keeps them; None where nothing had to be gathered."""
    if not is_spread(module):
        return None
    return {name: weight.cpu().clone() for name, weight in whole_weights(module) if keep}


def _gathered(parameter: nn.Parameter) -> Any:
    return _deepspeed().zero.GatheredParameters([parameter]) if hasattr(parameter, "ds_id") else nullcontext()


def _config(parallelism: Parallelism, stage: int, settings: PpoSettings) -> dict[str, Any]:
    """What DeepSpeed is told of training and of frozen models alike.

    Raises:
        TrainingError: the user's part has a key that the study decides.
    """
    user = json.loads(json.dumps(dict(parallelism.deepspeed)))
    owned = [key for key in _OWNED if key in user]
    zero = user.pop("zero_optimization", {})
    owned += ["zero_optimization.stage"] if "stage" in zero else []
    if owned:
        raise TrainingError(
            f"the DeepSpeed config sets {', '.join(owned)}, which the study's ppo settings and the compute file's "
            "zero_stage decide"
        )
    return {
        "steps_per_print": 2**31,
        **user,
        "zero_optimization": {**zero, "stage": stage},
        "bf16": {"enabled": settings.precision == "bfloat16"},
        "train_micro_batch_size_per_gpu": 1,  # batches are ours to cut: see `backward`
        "gradient_accumulation_steps": 1,
    }


def _adamw_class(parallelism: Parallelism) -> Any:
    """torch's, or DeepSpeed's for moments that are offloaded from a GPU: vectorised, compiled at first use."""
    offload = parallelism.deepspeed.get("zero_optimization", {}).get("offload_optimizer", {})
    if offload.get("device", "none") == "none" or not torch.cuda.is_available():
        return torch.optim.AdamW
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam


def _mark_leaves(model: nn.Module) -> None:
    """Let ZeRO 3 gather the experts of a layer together.

    Otherwise it gathers them one by one as tokens reach them, and ranks whose tokens reach different ones wait for each
    other for ever.
    """
    blocks = {
        type(module) for module in model.modules() if any(hasattr(child, "gate_up_proj") for child in module.children())
    }
    if blocks:
        _deepspeed().utils.set_z3_leaf_modules(model, list(blocks))


def _checkpoint_activations(model: nn.Module) -> None:
    """Switch on transformers' activation checkpointing for the layers, which it reserves for modules in training mode.

    Only the layers' own flags are set: what is inside them (dropout) stays in evaluation mode.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
            module.activation_checkpointing_enable()
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(f"activation checkpointing was asked for, and {type(model).__name__} cannot do it")
    for layer in layers:
        layer.training = True


def _initialize(**options: Any) -> Any:
    engine, *_ = _deepspeed().initialize(**options)
    return engine


def _deepspeed() -> Any:
    """DeepSpeed, among its ranks and ready for this machine.

    On CPU `deepspeed_shm_comm`, a C++ extension for ranks that share a machine, is declared incompatible: compiling it
    takes minutes.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    Ranks.join()  # before DeepSpeed looks for other ways to find its ranks
    os.environ.setdefault("LOCAL_RANK", "0")  # which DeepSpeed reads in every step
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if on_cpu:
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
