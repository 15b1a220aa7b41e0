"""The memory of PPO: of a GPU and its host, or of a process on CPUs.

A rank holds two models in training (`zero`), the models that are only read, what samples (a vLLM worker or the embedded
engine), the rollout batch, and the activations of a micro-batch (`activations`). Each is an item with the phases in
which it exists (`footprint`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from bai_pipeline.settings import PpoSettings
from bai_pipeline.sizing.activations import (
    backward_workspace,
    forward_logits,
    forward_workspace,
    kept_activations,
    training_logits,
)
from bai_pipeline.sizing.footprint import ALWAYS, ELEMENT_BYTES, TRAINING, Dtype, Footprint, Item, Phase
from bai_pipeline.sizing.shape import Head, ModelShape
from bai_pipeline.sizing.zero import Stage, Trained, Zero, training_buffers, training_states

SCORED_AT_ONCE: Final = 16
"""Responses that the reward model reads at a time (`BATCH` in bai_pipeline/reward/scorers.py)."""

EXPERIENCE_BYTES: Final = 37
"""Of a token of the rollout batch, which every rank holds whole (`Experience`): its id (8), a mask (1), and in float32
three log-probabilities, value, advantage, return and the rewards to come."""

ESTIMATE_BYTES: Final = 28
"""More of a token while advantages are estimated: rewards, and what `gae` and `whiten` make."""

KV_CACHE: Final = "rollouts: KV cache"
"""Name of the item."""

VLLM_CACHE_BYTES: Final = 1 << 30
"""Of a vLLM worker's KV cache, unless it is told otherwise (`VllmEngine`)."""

BASELINE_BYTES: Final = 620_000_000
"""A process that has imported torch, transformers and deepspeed and built an engine (docs/guide/sizing.md)."""

MMAP_THRESHOLD: Final = 32 << 20
"""Freed memory of blocks below this stays with the process (M_MMAP_THRESHOLD in glibc's mallopt(3), at its maximum)."""


@dataclass(frozen=True)
class Layout:
    """How PPO is spread over ranks, as in the compute file; each decides memory, none a result."""

    ranks: int = 1
    ranks_per_host: int = 1
    zero_stage: Stage = 1
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    """DeepSpeed's JSON: offloading and bucket sizes."""
    micro_batch_size: int | None = None
    """Responses that a rank's model reads at once; None: its whole share of a mini-batch."""
    activation_checkpointing: bool = False
    frozen: Literal["plain", "zero3"] = "plain"
    """The reference: whole on every rank, or spread over the ranks."""
    tensor_parallel: int = 1
    """GPUs that share one copy of the model for rollouts."""
    rollouts_asleep: bool = False
    """vLLM gives its GPU memory back while the models are trained, and keeps its weights on the host."""
    reward_on_host: bool = True
    """The reward model scores on the host's processors, where `RewardModelScorer` leaves it."""
    rollout_cache_bytes: int | None = None
    """KV cache of a rank; None: 1 GiB under vLLM, what the embedded engine needs."""

    @property
    def zero(self) -> Zero:
        return Zero.of_config(self.deepspeed, stage=self.zero_stage, ranks=self.ranks)

    def micro_batch(self, settings: PpoSettings) -> int:
        """Responses that a rank's model reads at once."""
        return self.micro_batch_size or -(-settings.mini_batch_size // self.ranks)


@dataclass(frozen=True)
class Models:
    """What the models of a study are; None: the study has no such model."""

    actor: ModelShape
    critic: ModelShape
    reward: ModelShape | None = None
    """A reward model that scores responses."""
    reward_dtype: Dtype = "float32"
    """As it was saved: a scorer keeps it."""


def gpu_memory(models: Models, settings: PpoSettings, layout: Layout) -> Footprint:
    """The memory of one rank on a GPU, and of its share of the host."""
    return Footprint.of(_items(models, settings, layout, on_cpu=False))


def process_memory(
    models: Models, settings: PpoSettings, layout: Layout, *, baseline: int = BASELINE_BYTES
) -> Footprint:
    """The resident memory of one rank that is a process on CPUs, where GPU and host are the same memory.

    The peak over a run is `process_memory(...).peak`; of all ranks, times their number (libraries that they share are
    counted once a process).

    Args:
        baseline: bytes of a process before it loads a model.
    """
    items = [
        Item("Python and libraries", baseline, ALWAYS),
        *_items(models, settings, layout, on_cpu=True),
        *_kept_by_malloc(models, settings, layout),
    ]
    return Footprint.of(item._replace(on_host=True) for item in items)


def kv_cache(models: Models, settings: PpoSettings, layout: Layout) -> int:
    """Bytes of keys and values of a rank's responses, all at full length: rows · (prompt + response) · 2 L K e."""
    rows = -(-settings.batch_size // layout.ranks)
    return rows * _length(settings) * models.actor.kv_cache_bytes(ELEMENT_BYTES[settings.precision])


def _items(models: Models, settings: PpoSettings, layout: Layout, *, on_cpu: bool) -> Iterator[Item]:
    element = ELEMENT_BYTES[settings.precision]
    for name, shape, head in _trained(models):
        parameters = shape.parameters(head)
        yield Item(f"{name}: whole, until spread", element * parameters, frozenset({Phase.LOAD}), on_host=True)
        yield from training_states(name, parameters, settings.precision, layout.zero)
        yield from training_buffers(
            name, parameters, shape.largest_module(head), settings.precision, layout.zero, on_cpu=on_cpu
        )
    yield from _frozen(models, settings, layout)
    yield from _rollouts(models, settings, layout, on_cpu=on_cpu)
    yield from _batches(models, settings, layout)


def _trained(models: Models) -> tuple[tuple[Trained, ModelShape, Head], ...]:
    return (Trained.ACTOR, models.actor, "language"), (Trained.CRITIC, models.critic, "score")


def _kept_by_malloc(models: Models, settings: PpoSettings, layout: Layout) -> Iterator[Item]:
    """What was freed in blocks below MMAP_THRESHOLD and stays with a process on CPUs.

    Gradients of tensors that small, under ZeRO 3 gathered parameters too; and activations, which a later backward pass
    uses again.
    """
    element, shape = ELEMENT_BYTES[settings.precision], models.actor
    small = element * sum(n * count for n, count in shape.tensors() if n * element < MMAP_THRESHOLD)
    yield Item("kept by malloc", small * (2 if layout.zero_stage == 3 else 1))
    tokens = layout.micro_batch(settings) * _length(settings)
    chosen = shape.experts_per_token * max(shape.hidden, 2 * shape.expert_width)
    if tokens * max(shape.hidden, shape.dense_width, chosen) * element < MMAP_THRESHOLD:
        checkpointing = layout.activation_checkpointing
        kept = kept_activations(shape, tokens, settings.precision, checkpointing=checkpointing)
        yield Item("kept by malloc", kept, TRAINING - {Phase.ACTOR_BACKWARD, Phase.CRITIC_BACKWARD})


def _length(settings: PpoSettings) -> int:
    """Tokens of the longest prompt and response."""
    return settings.max_prompt_tokens + settings.max_new_tokens


def _frozen(models: Models, settings: PpoSettings, layout: Layout) -> Iterator[Item]:
    """Models that are only read: e bytes a parameter, divided by the ranks where they are spread."""
    if settings.kl_coef > 0:
        whole = ELEMENT_BYTES[settings.precision] * models.actor.parameters()
        yield Item("reference", whole if layout.frozen == "plain" else -(-whole // layout.ranks))
        yield Item("reference: whole, until spread", whole, frozenset({Phase.LOAD}), on_host=True)
    if models.reward is not None:
        weights = ELEMENT_BYTES[models.reward_dtype] * models.reward.parameters("score")
        yield Item("reward model", weights, ALWAYS, on_host=layout.reward_on_host)


def _rollouts(models: Models, settings: PpoSettings, layout: Layout, *, on_cpu: bool) -> Iterator[Item]:
    """The copy of the policy that samples, and its KV cache.

    vLLM's worker keeps both between the steps, unless it sleeps. The embedded engine samples from the policy in
    training itself, or from a copy where that is spread (ZeRO 3); its decoder for OLMoE fuses the projections of
    queries, keys and values, which copies H (Q + 2 K) parameters of a layer.
    """
    actor, element = models.actor, ELEMENT_BYTES[settings.precision]
    whole, cache = element * actor.parameters(), layout.rollout_cache_bytes
    if settings.rollout_engine == "vllm":
        awake = frozenset({Phase.SAMPLE}) if layout.rollouts_asleep else TRAINING
        part = -(-whole // layout.tensor_parallel)
        yield Item("rollouts: weights", part, awake)
        yield Item(KV_CACHE, VLLM_CACHE_BYTES if cache is None else cache, awake)
        if layout.rollouts_asleep:
            yield Item("rollouts: weights asleep", part, TRAINING - awake, on_host=True)
        return
    sampling = frozenset({Phase.SAMPLE})
    if layout.zero_stage == 3:
        yield Item("rollouts: weights", whole, ALWAYS)
    if on_cpu and actor.family == "olmoe" and settings.precision == "float32":
        fused = actor.layers * actor.hidden * (actor.queries + 2 * actor.keys)
        yield Item("rollouts: fused projections", element * fused, sampling)
    yield Item(KV_CACHE, kv_cache(models, settings, layout) if cache is None else cache, sampling)
    rows = -(-settings.batch_size // layout.ranks)
    yield Item("rollouts: logits", rows * actor.vocabulary * (element + 12), sampling)


def _batches(models: Models, settings: PpoSettings, layout: Layout) -> Iterator[Item]:
    """The rollout batch, and what the models make of a micro-batch of it, every response at its full length."""
    dtype, length = settings.precision, _length(settings)
    estimate, actor, critic = Phase.ESTIMATE, models.actor, models.critic
    tokens = layout.micro_batch(settings) * length
    batch = settings.batch_size * length
    yield Item("rollout batch", EXPERIENCE_BYTES * batch, TRAINING - {Phase.SAMPLE})
    yield Item("rollout batch", ESTIMATE_BYTES * batch, frozenset({estimate}))
    # One after the other: scores, the probe, the reference, values. The largest decides.
    probed = -(-min(settings.probe_responses, settings.batch_size) // layout.ranks) * length
    read = max(tokens, probed) if settings.kl_coef or settings.importance_cap else probed
    logits, hidden = forward_logits(actor, read), forward_workspace(actor, read, dtype)
    others = [forward_workspace(critic, tokens, dtype)]
    if models.reward is not None:
        scored = min(SCORED_AT_ONCE, -(-settings.batch_size // layout.ranks)) * length
        scoring = forward_workspace(models.reward, scored, models.reward_dtype)
        if layout.reward_on_host:
            yield Item("activations of scoring", scoring, frozenset({estimate}), on_host=True)
        else:
            others.append(scoring)
    logits, hidden = max((logits, hidden), (0, max(others)), key=sum)
    yield Item("logits", logits, frozenset({estimate}))
    yield Item("activations", hidden, frozenset({estimate}))
    for name, shape, head in _trained(models):
        kept = kept_activations(shape, tokens, dtype, checkpointing=layout.activation_checkpointing)
        layer = backward_workspace(shape, tokens, dtype, checkpointing=layout.activation_checkpointing)
        loss, output = 0, 0
        if head == "language":
            loss = training_logits(actor, tokens, dtype, entropy_bonus=settings.entropy_coef > 0)
            output = tokens * actor.vocabulary * ELEMENT_BYTES[dtype]
        # First the loss is computed, then layers: the head's output is kept, the rest of the logits is gone.
        backward = frozenset({name.backward})
        yield Item("activations", kept + (layer if layer + output > loss else 0), backward)
        yield Item("logits", output if layer + output > loss else loss, backward)
