"""Whether PPO fits on a GPU, and what would make it fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from bai_pipeline.settings import PpoSettings
from bai_pipeline.sizing.footprint import ELEMENT_BYTES, Footprint
from bai_pipeline.sizing.ppo_memory import KV_CACHE, Layout, Models, gpu_memory, kv_cache

USABLE_SHARE: Final = 0.9
"""Of a GPU's memory: the rest is for the CUDA context, NCCL and fragments (vLLM's `gpu_memory_utilization` has the same
default for the same reasons)."""


@dataclass(frozen=True)
class Fit:
    """A footprint beside the GPU that it is to fit on."""

    footprint: Footprint
    usable: int
    """Bytes of the GPU that are planned with."""
    cache: int
    """Bytes of the rollouts' KV cache: as asked for, or what the rest leaves, up to all of a rank's responses."""
    responses_at_once: float
    """How many responses of full length the cache holds; others wait."""

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most on the GPU."""
        return self.footprint.place(on_host=False).peak

    @property
    def fits(self) -> bool:
        """Whether all phases have room, and at least one response has room in the cache."""
        return self.peak <= self.usable and self.responses_at_once >= 1


def fit(models: Models, settings: PpoSettings, layout: Layout, gpu_bytes: int) -> Fit:
    """PPO on a GPU of so many bytes."""
    usable, cache = int(gpu_bytes * USABLE_SHARE), layout.rollout_cache_bytes
    everything = kv_cache(models, settings, layout)
    if cache is None:
        items = gpu_memory(models, settings, replace(layout, rollout_cache_bytes=1)).place(on_host=False).items
        (phases,) = {item.phases for item in items if item.name == KV_CACHE}
        others = Footprint(tuple(item for item in items if item.name != KV_CACHE))
        cache = min(everything, max(0, usable - max(others.at(phase) for phase in phases)))
    one = models.actor.kv_cache_bytes(ELEMENT_BYTES[settings.precision])
    one *= settings.max_prompt_tokens + settings.max_new_tokens
    footprint = gpu_memory(models, settings, replace(layout, rollout_cache_bytes=cache))
    return Fit(footprint, usable, cache, cache / one)


def remedies(models: Models, settings: PpoSettings, layout: Layout, gpu_bytes: int) -> list[str]:
    """Options of `bai plan` with which it fits: each by itself, or, where none is enough, all of them together."""
    changes = dict(_changes(layout))
    alone = [option for option, change in changes.items() if fit(models, settings, change, gpu_bytes).fits]
    if alone:
        return alone
    together = layout
    for _, change in _changes(layout):
        together = _combined(together, change, layout)
    return [" ".join(changes)] if fit(models, settings, together, gpu_bytes).fits else []


def _changes(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """Single changes that save memory and that the layout has not made."""
    if layout.micro_batch_size != 1:
        yield "--micro-batch 1", replace(layout, micro_batch_size=1)
    if not layout.activation_checkpointing:
        yield "--activation-checkpointing", replace(layout, activation_checkpointing=True)
    if layout.zero_stage < 3:
        yield "--zero-stage 3", replace(layout, zero_stage=3)
    if layout.frozen == "plain":
        yield "--frozen zero3", replace(layout, frozen="zero3")
    if layout.tensor_parallel < layout.ranks_per_host:
        yield f"--tensor-parallel {layout.ranks_per_host}", replace(layout, tensor_parallel=layout.ranks_per_host)
    if not layout.rollouts_asleep:
        yield "--rollouts-asleep", replace(layout, rollouts_asleep=True)
    if not layout.zero.offload_optimizer:
        yield "--offload optimizer", replace(layout, deepspeed=offloading(layout.deepspeed, "offload_optimizer"))


def offloading(deepspeed: Mapping[str, Any], key: str) -> dict[str, Any]:
    """DeepSpeed's JSON with a part offloaded to the host: `offload_optimizer` or `offload_param`."""
    return {**deepspeed, "zero_optimization": {**deepspeed.get("zero_optimization", {}), key: {"device": "cpu"}}}


def _combined(so_far: Layout, change: Layout, original: Layout) -> Layout:
    """`so_far` with what `change` changed in `original`."""
    changed = {name: value for name, value in vars(change).items() if value != vars(original)[name]}
    return replace(so_far, **changed)
