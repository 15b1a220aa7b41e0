"""One-token-at-a-time forward passes with a KV cache: what the sampler's loop runs on.

Prompts are padded on the left and every row counts its positions from its own first token, so a row's logits do not
depend on the others in the batch beyond rounding.

B rows, P prompt tokens (padded), S tokens in the cache, V vocabulary, H heads, D head width, E experts, F their width.
"""

import inspect
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, OlmoeForCausalLM, PreTrainedModel

DENSE_EXPERTS_MAX = 16
"""Above this many experts, computing all of them for each token costs more than routing saves."""


class Decoder(Protocol):
    """A causal LM with a KV cache for a batch of rows; takes and gives tensors on the CPU."""

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        """Logits (B, V) after left-padded prompts `input_ids` (B, P); `valid` (B, P) is False on padding."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` (B,) to the rows; logits (B, V) of the token after."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (ascending indices into the present batch)."""


def build_decoder(model: PreTrainedModel, capacity: int) -> Decoder:
    """The fastest decoder for `model`: `OlmoeDecoder` if it applies, else `HuggingFaceDecoder`.

    Args:
        model: a causal LM.
        capacity: longest prompt + new tokens.
    """
    if isinstance(model, OlmoeForCausalLM) and OlmoeDecoder.applies_to(model):
        return OlmoeDecoder(model, capacity)
    return HuggingFaceDecoder(model)


class HuggingFaceDecoder:
    """Any Hugging Face causal LM, through its own forward and `past_key_values`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._valid = torch.empty(0)
        accepts = inspect.signature(model.forward).parameters
        self._options: dict[str, object] = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        self._valid = valid = valid.to(self._model.device)
        return self._forward(input_ids.to(self._model.device), (valid.long().cumsum(-1) - 1).clamp(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        positions = self._valid.sum(-1, keepdim=True)
        self._valid = F.pad(self._valid, (0, 1), value=True)
        return self._forward(tokens[:, None].to(self._model.device), positions)

    def keep(self, rows: Tensor) -> None:
        rows = rows.to(self._model.device)
        self._valid = self._valid[rows]
        self._cache.batch_select_indices(rows)

    def _forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        output = self._model(
            input_ids=input_ids,
            attention_mask=self._valid.long(),
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        logits: Tensor = output.logits[:, -1]
        return logits.float().cpu()


class OlmoeDecoder:
    """OLMoE in float32 on a CPU: fused projections, one preallocated cache and all experts in two products.

    For a model of few, narrow experts the cost of a decoding step is Python and kernel launches, not arithmetic:
    `E F` more multiplications in one matrix product are cheaper than sorting tokens by expert. It reads the weights
    when it is built; build a new one after an update.
    """

    def __init__(self, model: OlmoeForCausalLM, capacity: int) -> None:
        config = model.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads or config.num_attention_heads
        self._width = config.hidden_size // self._heads
        self._experts, self._top_k = config.num_experts, config.num_experts_per_tok
        self._norm_topk, self._clip, self._eps = config.norm_topk_prob, config.clip_qkv, config.rms_norm_eps
        self._capacity = capacity
        self._embedding = model.model.embed_tokens.weight.detach()
        self._final_norm = model.model.norm.weight.detach()
        self._head = model.lm_head.weight.detach()
        self._layers = [_LayerWeights(layer) for layer in model.model.layers]
        cos, sin = model.model.rotary_emb(self._embedding, torch.arange(capacity)[None])
        self._cos, self._sin = cos[0], sin[0]  # (capacity, D)
        self._keys: list[Tensor] = []  # per layer (B, H_kv, capacity, D)
        self._values: list[Tensor] = []
        self._valid = torch.empty(0)  # (B, capacity)
        self._length = 0

    @staticmethod
    def applies_to(model: OlmoeForCausalLM) -> bool:
        """True for the case this class is written for: float32, CPU, few experts, plain rotary positions."""
        weight = model.lm_head.weight
        return (
            weight.dtype == torch.float32
            and weight.device.type == "cpu"
            and model.config.num_experts <= DENSE_EXPERTS_MAX
            and model.model.rotary_emb.rope_type == "default"
            and model.config.hidden_act == "silu"
            and not model.config.attention_bias
        )

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        rows, length = input_ids.shape
        shape = (rows, self._kv_heads, self._capacity, self._width)
        self._keys = [torch.empty(shape) for _ in self._layers]
        self._values = [torch.empty(shape) for _ in self._layers]
        self._valid = torch.ones(rows, self._capacity, dtype=torch.bool)
        self._valid[:, :length] = valid
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        # A padding query sees itself: a row of the softmax with nothing to see would be NaN.
        mask = (causal & valid[:, None, :]) | torch.eye(length, dtype=torch.bool)
        return self._forward(input_ids, (valid.long().cumsum(-1) - 1).clamp(min=0), mask[:, None])

    def step(self, tokens: Tensor) -> Tensor:
        seen = self._valid[:, : self._length]
        positions = seen.sum(-1, keepdim=True)
        mask = self._valid[:, None, None, : self._length + 1]
        return self._forward(tokens[:, None], positions, mask)

    def keep(self, rows: Tensor) -> None:
        count, used = len(rows), self._length
        for caches in (self._keys, self._values):
            for layer, cache in enumerate(caches):
                cache[:count, :, :used] = cache[rows, :, :used]
                caches[layer] = cache[:count]
        self._valid = self._valid[rows]

    def _forward(self, input_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, V) after the last of `input_ids` (B, T) at `positions` (B, T); `mask` is (B, 1, T, S)."""
        rows, length = input_ids.shape
        start, self._length = self._length, self._length + length
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # (B, 1, T, D)
        x = F.embedding(input_ids, self._embedding)  # (B, T, H D)
        for layer, weights in enumerate(self._layers):
            hidden = self._norm(x, weights.input_norm)
            query, key, value = torch.split(F.linear(hidden, weights.qkv), weights.qkv_sizes, -1)
            query, key = self._norm(query, weights.query_norm), self._norm(key, weights.key_norm)
            if self._clip is not None:
                query, key, value = (part.clamp(-self._clip, self._clip) for part in (query, key, value))
            query = _rotate(self._split(query), cos, sin)
            self._keys[layer][:, :, start : self._length] = _rotate(self._split(key), cos, sin)
            self._values[layer][:, :, start : self._length] = self._split(value)
            attention = F.scaled_dot_product_attention(
                query,
                self._keys[layer][:, :, : self._length],
                self._values[layer][:, :, : self._length],
                attn_mask=mask,
                enable_gqa=self._kv_heads != self._heads,
            )
            x = x + F.linear(attention.transpose(1, 2).reshape(rows, length, -1), weights.output)
            hidden = self._norm(x, weights.post_norm).view(rows * length, -1)
            x = x + self._moe(hidden, weights).view_as(x)
        return F.linear(self._norm(x[:, -1], self._final_norm), self._head)

    def _moe(self, hidden: Tensor, weights: "_LayerWeights") -> Tensor:
        """Output (N, H D) of all experts on `hidden` (N, H D), weighted by the router's top-k probabilities."""
        top, chosen = F.linear(hidden, weights.router).softmax(-1).topk(self._top_k, -1)
        if self._norm_topk:
            top = top / top.sum(-1, keepdim=True)
        gate = torch.zeros(len(hidden), self._experts).scatter_(1, chosen, top)  # (N, E), 0 where not chosen
        gate_up = F.linear(hidden, weights.gate_up).view(len(hidden), self._experts, 2, -1)
        inner = F.silu(gate_up[:, :, 0]).mul_(gate_up[:, :, 1]).mul_(gate[..., None])  # (N, E, F)
        return inner.view(len(hidden), -1) @ weights.down

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, H D) -> (B, H, T, D)."""
        return x.view(*x.shape[:2], -1, self._width).transpose(1, 2)


class _LayerWeights:
    """The weights of one decoder layer, fused for few large products."""

    def __init__(self, layer: nn.Module) -> None:
        weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}
        projections = [weights[f"self_attn.{name}_proj.weight"] for name in "qkv"]
        self.qkv = torch.cat(projections)
        self.qkv_sizes = [len(projection) for projection in projections]
        self.output = weights["self_attn.o_proj.weight"]
        self.query_norm = weights["self_attn.q_norm.weight"]
        self.key_norm = weights["self_attn.k_norm.weight"]
        self.input_norm = weights["input_layernorm.weight"]
        self.post_norm = weights["post_attention_layernorm.weight"]
        self.router = weights["mlp.gate.weight"]
        self.gate_up = weights["mlp.experts.gate_up_proj"].flatten(0, 1)  # (E 2 F, H D)
        self.down = weights["mlp.experts.down_proj"].transpose(1, 2).flatten(0, 1)  # (E F, H D)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves convention of transformers."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
