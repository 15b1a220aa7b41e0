"""The shape of a decoder-only transformer, from its config.json, and how many parameters it has.

The counts are those of transformers' modeling files, tensor by tensor; no weights are read and no torch is imported.

V vocabulary, H hidden size, D head width, Q = heads · D, K = key-value heads · D, E experts of which each token takes
k, F width of one expert (or of a dense layer's MLP).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from bai_pipeline.errors import CheckpointError
from bai_pipeline.settings import ModelSettings

Head = Literal["language", "score"]
"""What stands on the last layer: V outputs (policies), or one (reward models and critics)."""


class Family(NamedTuple):
    """How a `model_type` differs from Llama."""

    qkv_bias: bool | None = False
    """Biases of the query, key and value projections; None: as the config's `attention_bias` says."""
    output_bias: bool | None = False
    """Bias of the attention's output projection; None: as the config's `attention_bias` says."""
    query_key_norm: Literal["none", "full", "head"] = "none"
    """Norms of queries and keys: over all heads together, or over each (with one weight for all heads)."""
    expert_width_key: str | None = None
    """Where the config says how wide an expert is; None: the family is dense."""


FAMILIES: Final[Mapping[str, Family]] = {
    "llama": Family(qkv_bias=None, output_bias=None),
    "mistral": Family(),
    "mixtral": Family(expert_width_key="intermediate_size"),
    "olmoe": Family(None, None, "full", "intermediate_size"),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(None, None, "head"),
    "qwen3_moe": Family(None, None, "head", "moe_intermediate_size"),
}
"""By `model_type`; transformers/models/<model_type>/modeling_<model_type>.py is the source."""

OLMOE_VOCABULARY: Final = 50304
"""Rows of OLMoE's embedding (transformers' OlmoeConfig), for a model that is described by `ModelSettings` alone."""


@dataclass(frozen=True)
class ModelShape:
    """What decides the size of a model."""

    family: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    tied: bool
    """The language head is the embedding."""
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    dense_layers: int
    """Layers with one MLP in the place of experts; all, in a dense model."""
    dense_width: int
    experts: int
    experts_per_token: int
    expert_width: int

    @property
    def queries(self) -> int:
        """Q, width of all query heads."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        """K, width of all key (or value) heads."""
        return self.kv_heads * self.head_width

    @property
    def sparse_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers

    @property
    def query_key_norm(self) -> Literal["none", "full", "head"]:
        return FAMILIES[self.family].query_key_norm

    @property
    def embedding_parameters(self) -> int:
        """V H."""
        return self.vocabulary * self.hidden

    @property
    def attention_parameters(self) -> int:
        """Of a layer: projections H (Q + 2 K) + Q H, their biases, and norms of queries and keys."""
        biases = self.qkv_bias * (self.queries + 2 * self.keys) + self.output_bias * self.hidden
        norms = {"none": 0, "full": self.queries + self.keys, "head": 2 * self.head_width}[self.query_key_norm]
        return self.hidden * (self.queries + 2 * self.keys) + self.queries * self.hidden + biases + norms

    @property
    def mlp_parameters(self) -> int:
        """Of a dense layer's MLP: gate, up and down, 3 H F, and their biases."""
        return 3 * self.hidden * self.dense_width + self.mlp_bias * (2 * self.dense_width + self.hidden)

    @property
    def expert_parameters(self) -> int:
        """Of one expert: gate, up and down, 3 H F."""
        return 3 * self.hidden * self.expert_width

    def head_parameters(self, head: Head) -> int:
        """V H, nothing if tied; of a score head H."""
        return self.hidden if head == "score" else 0 if self.tied else self.embedding_parameters

    def parameters(self, head: Head = "language") -> int:
        """All parameters, each counted once."""
        return self._count(head, self.experts)

    def active_parameters(self, head: Head = "language") -> int:
        """Those that one token meets: k of the E experts of a layer, and all of the rest, embedding and head too."""
        return self._count(head, self.experts_per_token)

    def _count(self, head: Head, experts: int) -> int:
        router = self.hidden * self.experts
        sparse = self.sparse_layers * (router + experts * self.expert_parameters)
        dense = self.dense_layers * self.mlp_parameters
        layers = self.layers * (self.attention_parameters + 2 * self.hidden)
        return self.embedding_parameters + layers + sparse + dense + self.hidden + self.head_parameters(head)

    def largest_module(self, head: Head = "language") -> int:
        """Parameters of the module that has most of its own: the embedding, a projection, or all experts of a layer.

        DeepSpeed's `model_to_params` (deepspeed/runtime/zero/stage3.py): what ZeRO 3 gathers at once, at least.
        """
        return max(
            self.embedding_parameters,
            self.hidden * self.queries + self.qkv_bias * self.queries,
            self.dense_layers and self.hidden * self.dense_width + self.mlp_bias * self.dense_width,
            self.sparse_layers and self.experts * self.expert_parameters,
        )

    def tensors(self, head: Head = "language") -> Iterator[tuple[int, int]]:
        """(elements, how many there are) of every kind of weight matrix; vectors are left out."""
        yield self.embedding_parameters, 1 + (head == "language" and not self.tied)
        yield self.hidden * self.queries, 2 * self.layers
        yield self.hidden * self.keys, 2 * self.layers
        yield self.hidden * self.dense_width, 3 * self.dense_layers
        yield 2 * self.experts * self.hidden * self.expert_width, self.sparse_layers
        yield self.experts * self.hidden * self.expert_width, self.sparse_layers

    def kv_cache_bytes(self, element: int) -> int:
        """Of one token: a key and a value of every layer, 2 L K elements."""
        return 2 * self.layers * self.keys * element


def shape_of_settings(model: ModelSettings, vocabulary: int) -> ModelShape:
    """The OLMoE that a study's `model` section describes."""
    return read_shape({**model.model_dump(), "model_type": "olmoe", "vocab_size": vocabulary}, "the study's model")


def read_shape(config: Mapping[str, Any], where: str) -> ModelShape:
    """The shape that a config.json describes.

    Args:
        where: names the config in messages.

    Raises:
        CheckpointError: an unknown `model_type`, or a size that is missing or no positive number.
    """
    config = config["text_config"] if isinstance(config.get("text_config"), Mapping) else config
    name = config.get("model_type")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{where}: expected a model_type out of {known}, got {name!r}; nothing was planned")
    family, size = FAMILIES[str(name)], _sizes(config, where)
    hidden, layers, heads = size("hidden_size"), size("num_hidden_layers"), size("num_attention_heads")
    bias = config.get("attention_bias") is True
    # Both names occur, in one family too: transformers 5 saves Qwen3-MoE's number of experts as num_local_experts.
    experts = size("num_experts", config.get("num_local_experts")) if family.expert_width_key else 0
    dense = _dense_layers(config, layers) if experts else layers
    return ModelShape(
        family=str(name),
        vocabulary=size("vocab_size"),
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=size("num_key_value_heads", heads),
        head_width=size("head_dim", hidden // heads),
        tied=config.get("tie_word_embeddings") is True,
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=bias if family.output_bias is None else family.output_bias,
        mlp_bias=config.get("mlp_bias") is True,
        dense_layers=dense,
        dense_width=size("intermediate_size") if dense else 0,
        experts=experts,
        experts_per_token=size("num_experts_per_tok") if experts else 0,
        expert_width=size(family.expert_width_key) if family.expert_width_key else 0,
    )


def _sizes(config: Mapping[str, Any], where: str) -> Callable[..., int]:
    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}: expected a positive whole number as {key}, got {value!r}")
        return value

    return size


def _dense_layers(config: Mapping[str, Any], layers: int) -> int:
    """Layers of a mixture that have no experts: Qwen3-MoE's `mlp_only_layers` and `decoder_sparse_step`."""
    dense, step = config.get("mlp_only_layers") or (), config.get("decoder_sparse_step") or 1
    return sum(1 for layer in range(layers) if layer in dense or (layer + 1) % step)
