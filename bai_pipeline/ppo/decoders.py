"""One-token-at-a-time forward passes with a KV cache: what the sampler's loop runs on.

Prompts are padded on the left and every row counts its positions from its own first token, so a row's logits do not
depend on the others in the batch beyond rounding.

B rows, P prompt tokens (padded), S tokens in the cache, V vocabulary, H heads, D head width, E experts, F their width.
"""

import inspect
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, OlmoeForCausalLM, PreTrainedModel

from bai_pipeline.native.library import Native, load_native
from bai_pipeline.ppo.experts import build_experts

WASTE_SHARE = 4
"""The cache is moved to the left, when rows are admitted, if one column in this many has become empty in every row."""


class Decoder(Protocol):
    """A causal LM with a KV cache for a batch of rows; takes and gives tensors on the CPU."""

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        """Start anew with left-padded prompts `input_ids` (B, P): logits (B, V); `valid` (B, P) is False on padding."""

    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` (B,) to the rows; logits (B, V) of the token after."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (indices into the present batch), which come in this order.

        The fewer change their places, the less there is to copy.
        """


@runtime_checkable
class RefillingDecoder(Decoder, Protocol):
    """A decoder that can put new prompts in the places of finished rows."""

    @property
    def full(self) -> bool:
        """True if the next `step` first makes room in the cache, for which the finished rows should be gone."""

    def admit(self, places: Tensor, input_ids: Tensor, valid: Tensor) -> None:
        """Forget what rows `places` (N,) hold and read left-padded tokens (N, P) in their stead; P may be 0.

        The last token of a prompt is left for the next `step`, which reads it with those of the other rows.
        """


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
        self._cache = DynamicCache()
        self._valid = torch.empty(0)
        accepts = inspect.signature(model.forward).parameters
        self._options: dict[str, object] = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        self._cache = DynamicCache(config=self._model.config)
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
    """OLMoE in float32 on a CPU: fused projections, one preallocated cache; on one thread what is between the
    projections is native code, if it was built.

    It reads the weights when it is built; build a new one after an update.

    All rows write the same column of the cache, a row's columns are the last before it. A new row's are written beside
    those of the rows that run; when the last column is reached, all move to the left as far as the longest row lets
    them. A row has at most `capacity` columns, so this is all the memory.
    """

    def __init__(self, model: OlmoeForCausalLM, capacity: int) -> None:
        config = model.config
        self._native = load_native() if torch.get_num_threads() == 1 else None
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads or config.num_attention_heads
        self._width = config.hidden_size // self._heads
        self._top_k = config.num_experts_per_tok
        self._norm_topk, self._clip, self._eps = config.norm_topk_prob, config.clip_qkv, config.rms_norm_eps
        self._capacity = capacity
        self._embedding = model.model.embed_tokens.weight.detach()
        self._final_norm = model.model.norm.weight.detach()
        self._head = model.lm_head.weight.detach()
        self._layers = [_LayerWeights(layer, self._native) for layer in model.model.layers]
        cos, sin = model.model.rotary_emb(self._embedding, torch.arange(capacity)[None])  # (1, capacity, D)
        signs = torch.ones(self._width)
        signs[: self._width // 2] = -1
        self._rotations = torch.stack((cos[0], sin[0] * signs), 1)[:, :, None]  # (capacity, 2, 1, D)
        self._keys: list[Tensor] = []  # per layer (B, H_kv, capacity, D)
        self._values: list[Tensor] = []
        self._length = 0  # columns that are in use
        self._lengths = torch.empty(0)  # (B,), how many of them each row has
        self._mask = torch.empty(0)  # (B, capacity), -inf on the others, else 0

    @staticmethod
    def applies_to(model: OlmoeForCausalLM) -> bool:
        """True for the case this class is written for: float32, CPU, plain rotary positions."""
        weight = model.lm_head.weight
        return (
            weight.dtype == torch.float32
            and weight.device.type == "cpu"
            and model.model.rotary_emb.rope_type == "default"
            and model.config.hidden_act == "silu"
            and not model.config.attention_bias
        )

    def prefill(self, input_ids: Tensor, valid: Tensor) -> Tensor:
        rows, self._length = input_ids.shape
        shape = (rows, self._kv_heads, self._capacity, self._width)
        self._keys = [torch.empty(shape) for _ in self._layers]
        self._values = [torch.empty(shape) for _ in self._layers]
        self._lengths = valid.sum(-1)
        self._mask = torch.zeros(rows, self._capacity)
        self._mask[:, : self._length].masked_fill_(~valid, -torch.inf)
        return self._logits(self._read(input_ids, valid, self._keys, self._values))

    def step(self, tokens: Tensor) -> Tensor:
        if self.full:
            self._move_end(int(self._lengths.max()))
        before = self._lengths
        self._length, self._lengths = self._length + 1, before + 1
        if self._native is not None:
            return self._logits(self._step_natively(self._native, tokens, before)[:, None])
        mask = self._mask[:, None, None, : self._length]
        states = self._forward(tokens[:, None], before[:, None], mask, self._keys, self._values, self._length)
        return self._logits(states)

    def keep(self, rows: Tensor) -> None:
        count, used = len(rows), self._length
        moved = (rows != torch.arange(count)).nonzero()[:, 0]
        for caches in (self._keys, self._values):
            for layer, cache in enumerate(caches):
                cache[moved, :, :used] = cache[rows[moved], :, :used]
                caches[layer] = cache[:count]
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]

    @property
    def full(self) -> bool:
        return self._length == self._capacity

    def admit(self, places: Tensor, input_ids: Tensor, valid: Tensor) -> None:
        count, length = input_ids.shape
        self._lengths[places] = length
        longest = int(self._lengths.max())
        if length > self._length or longest * WASTE_SHARE < self._length * (WASTE_SHARE - 1):
            self._move_end(longest)
        self._lengths[places] = valid.sum(-1)
        self._mask[places] = self._masked(self._lengths[places])
        if length == 0:
            return
        shape = (count, self._kv_heads, length, self._width)
        keys, values = ([torch.empty(shape) for _ in self._layers] for _ in range(2))
        self._read(input_ids, valid, keys, values)
        for caches, parts in ((self._keys, keys), (self._values, values)):
            for cache, part in zip(caches, parts, strict=True):
                cache[places, :, self._length - length : self._length] = part

    def _move_end(self, end: int) -> None:
        """Move the columns of all rows so that the last is before `end`; what has no room on the left is lost."""
        used = min(end, self._length)
        for cache in (*self._keys, *self._values):
            cache[:, :, end - used : end] = cache[:, :, self._length - used : self._length].clone()
            cache[:, :, : end - used] = 0  # unseen, but a softmax weight of 0 needs something finite to multiply
        self._length = end
        self._mask = self._masked(self._lengths)

    def _masked(self, lengths: Tensor) -> Tensor:
        """(N, capacity): -inf on the columns before `_length` that rows with `lengths` (N,) do not have, else 0."""
        unseen = torch.arange(self._capacity) < self._length - lengths[:, None]
        return torch.zeros(unseen.shape).masked_fill_(unseen, -torch.inf)

    def _read(self, input_ids: Tensor, valid: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Hidden states (B, T, H D) of left-padded `input_ids` (B, T), which fill the first columns of the caches."""
        length = input_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        # A padding query sees itself: a row of the softmax with nothing to see would be NaN.
        seen = (causal & valid[:, None, :]) | torch.eye(length, dtype=torch.bool)
        mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
        positions = (valid.long().cumsum(-1) - 1).clamp(min=0)
        return self._forward(input_ids, positions, mask[:, None], keys, values, length)

    def _forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        end: int,
    ) -> Tensor:
        """Hidden states (B, T, H D) of `input_ids` (B, T) at `positions` (B, T), which become the columns before `end`.

        Args:
            mask: (B, 1, T, S), 0 or -inf.
            keys, values: per layer (B, H_kv, at least S, D).
        """
        rows, length = input_ids.shape
        new = slice(end - length, end)
        cos, sin = self._rotations[positions].unbind(2)  # (B, T, 1, D)
        x = F.embedding(input_ids, self._embedding)  # (B, T, H D)
        for weights, cached_keys, cached_values in zip(self._layers, keys, values, strict=True):
            projected = F.linear(self._norm(x, weights.input_norm), weights.qkv)  # (B, T, (H + 2 H_kv) D)
            rotated, value = self._normed(projected, weights)
            if self._clip is not None:
                rotated, value = rotated.clamp(-self._clip, self._clip), value.clamp(-self._clip, self._clip)
            rotated = _rotate(rotated.view(rows, length, -1, self._width), cos, sin).transpose(1, 2)
            cached_keys[:, :, new] = rotated[:, self._heads :]
            cached_values[:, :, new] = value.view(rows, length, -1, self._width).transpose(1, 2)
            query = rotated[:, : self._heads]
            seen_keys, seen_values = cached_keys[:, :, :end], cached_values[:, :, :end]
            if length == 1:
                attention = _attend_once(query, seen_keys, seen_values, mask)
            else:
                attention = F.scaled_dot_product_attention(
                    query, seen_keys, seen_values, attn_mask=mask, enable_gqa=self._kv_heads != self._heads
                )
            x = x + F.linear(attention.transpose(1, 2).reshape(rows, length, -1), weights.output)
            hidden = self._norm(x, weights.post_norm).view(rows * length, -1)
            x = x + self._moe(hidden, weights).view_as(x)
        return x

    def _step_natively(self, native: Native, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states (B, H D) of `tokens` (B,), which rows with `lengths` (B,) get in the cache's last column."""
        x = F.embedding(tokens, self._embedding)
        rotations = self._rotations.squeeze(2)
        for weights, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            projected = F.linear(native.norm(x, weights.input_norm, self._eps), weights.qkv)
            norms = (weights.query_norm, weights.key_norm)
            attention = native.attend(
                projected, norms, self._eps, self._clip, rotations, lengths, keys, values, self._length
            )
            x = x + F.linear(attention, weights.output)
            x = x + self._moe(native.norm(x, weights.post_norm, self._eps), weights)
        return x

    def _normed(self, projected: Tensor, weights: "_LayerWeights") -> tuple[Tensor, Tensor]:
        """Normed query and key side by side (B, T, (H + H_kv) D), and value (B, T, H_kv D)."""
        query, key, value = torch.split(projected, weights.qkv_sizes, -1)
        if weights.query_key_norm is None:
            return torch.cat((self._norm(query, weights.query_norm), self._norm(key, weights.key_norm)), -1), value
        both = projected[..., : -value.shape[-1]].view(*query.shape[:-1], 2, -1)
        return (F.rms_norm(both, both.shape[-1:], None, self._eps) * weights.query_key_norm).flatten(-2), value

    def _logits(self, x: Tensor) -> Tensor:
        """(B, T, H D) -> (B, V) of the last token."""
        return F.linear(self._norm(x[:, -1], self._final_norm), self._head)

    def _moe(self, hidden: Tensor, weights: "_LayerWeights") -> Tensor:
        """Output (N, H D) of the experts on `hidden` (N, H D), weighted by the router's top-k probabilities."""
        top, chosen = F.linear(hidden, weights.router).softmax(-1).topk(self._top_k, -1)
        if self._norm_topk:
            top = top / top.sum(-1, keepdim=True)
        return weights.experts(hidden, chosen, top)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._eps)


class _LayerWeights:
    """The weights of one decoder layer, fused for few large products."""

    def __init__(self, layer: nn.Module, native: Native | None) -> None:
        weights = {name: parameter.detach() for name, parameter in layer.named_parameters()}
        projections = [weights[f"self_attn.{name}_proj.weight"] for name in "qkv"]
        self.qkv = torch.cat(projections)
        self.qkv_sizes = [len(projection) for projection in projections]
        self.output = weights["self_attn.o_proj.weight"]
        self.query_norm = weights["self_attn.q_norm.weight"]
        self.key_norm = weights["self_attn.k_norm.weight"]
        same = self.query_norm.shape == self.key_norm.shape
        self.query_key_norm = torch.stack((self.query_norm, self.key_norm)) if same else None  # (2, H D)
        self.input_norm = weights["input_layernorm.weight"]
        self.post_norm = weights["post_attention_layernorm.weight"]
        self.router = weights["mlp.gate.weight"]
        gate_up, down = weights["mlp.experts.gate_up_proj"], weights["mlp.experts.down_proj"]
        self.experts = build_experts(gate_up, down, native)


def _attend_once(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention (B, H, 1, D) of `query` (B, H, 1, D), of one token a row, over `keys` and `values` (B, H_kv, S, D).

    For one token torch's scaled_dot_product_attention costs more than the two products it consists of.

    Args:
        mask: (B, 1, 1, S), added to the scores.
    """
    rows, kv_heads, seen, width = keys.shape
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)  # (B H_kv, S, D), views
    grouped = (query * width**-0.5).view(len(keys), -1, width)  # the queries of a key's group
    scores = torch.bmm(keys, grouped.transpose(1, 2)).transpose(1, 2)  # (B H_kv, H / H_kv, S)
    shares = (scores.view(rows, kv_heads, -1, seen) + mask).softmax(-1)
    return torch.bmm(shares.view(len(keys), -1, seen), values).view(query.shape)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves convention of transformers.

    The halves change places; that the first half of them then has the opposite sign is in `sin`.
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
