"""Sampling in the training process itself, with no server beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.rollouts.interface import Rollout, Sampling, Weights
from bai_pipeline.ppo.sampler import sample_responses


class EmbeddedEngine:
    """`RolloutEngine` over a model in this process: OLMoE through `OlmoeDecoder`, any other through its own forward."""

    def __init__(self, model: PreTrainedModel, *, slots: int | None = None, in_place: bool = False) -> None:
        """Take the model that is sampled from.

        Args:
            model: with `in_place` the policy in training itself; else a plain replica of it, which this engine writes
                to (in its own dtype and on its own device).
            slots: rows that are decoded at a time, which bounds the cache; None: all.
            in_place: `generate` reads the policy's weights as they are then, and there is nothing to copy.
        """
        if slots is not None and slots < 1:
            raise TrainingError(f"expected at least one slot, got {slots}; no rollout engine was built")
        if not in_place:
            model.requires_grad_(False).train(False)
        self._model: PreTrainedModel | None = model
        self._slots, self._in_place = slots, in_place

    def synchronize(self, weights: Weights) -> None:
        """Copy `weights` into the replica; nothing in place, where `weights` is not gone through.

        Raises:
            TrainingError: not exactly the replica's parameters, or other shapes; it names them all. The replica is then
                a mixture of old and new.
        """
        model = self._open_model()
        if not self._in_place:
            copy_weights(model, weights)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, rows: Sequence[int], total: int
    ) -> Rollout:
        """One response per prompt; see `sample_responses`."""
        generator = torch.Generator().manual_seed(seed)
        return sample_responses(
            self._open_model(), prompts, sampling, generator=generator, rows=rows, total=total, slots=self._slots
        )

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _open_model(self) -> PreTrainedModel:
        if self._model is None:
            raise TrainingError("the rollout engine is closed; nothing was sampled")
        return self._model


@torch.no_grad()
def copy_weights(model: nn.Module, weights: Weights) -> None:
    """Copy whole tensors into the parameters of the same names; a tied parameter may come under any of its names.

    Raises:
        TrainingError: tensors are missing, unknown or of another shape. Raised at the end, as other ranks may wait for
            this one to go through all of `weights`.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    copied: set[int] = set()
    unknown: list[str] = []
    misshapen: list[str] = []
    for name, tensor in weights:
        parameter = own.get(name)
        if parameter is None:
            unknown.append(name)
            continue
        copied.add(id(parameter))
        if parameter.shape != tensor.shape:
            misshapen.append(f"{name} {_shape(tensor)} instead of {_shape(parameter)}")
        else:
            parameter.copy_(tensor)
    missing = [name for name, parameter in model.named_parameters() if id(parameter) not in copied]
    faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    if found := [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]:
        raise TrainingError(
            f"the policy's weights do not fit the rollout replica, a {type(model).__name__}: {'; '.join(found)}; the "
            "replica holds old and new weights, nothing was sampled from it"
        )


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
