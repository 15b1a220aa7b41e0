"""What a forward pass keeps for the backward pass, and what the logits cost.

Counted from transformers' modeling files with SDPA attention and `grouped_mm` experts: every tensor that autograd
saves, once. e bytes an element; H, Q, K, E, k, F, V as in `shape`. Of one token:

    norm of width W   (4 + 2 e) W        its input in float32, the normalised input, its output
    norms of queries  (4 + e) (Q + K)    as above; rotary embedding keeps nothing of its input
    attention         e (2 Q + 2 K) + 4 heads     queries, keys, values, output; the log-sum of the softmax
    dense MLP         4 e F              gate, its activation, up, their product
    experts           k e (2 H + 4 F)    as above, and input and output of every chosen expert
    router            4 E                its probabilities

A layer with experts keeps 2 norms, attention, router and experts. With activation checkpointing (Chen et al. 2016,
arXiv:1604.06174) a layer keeps its input, e H, and what it would have kept is there for one layer at a time.

The logits (T, V) of the policy are in memory several times at the peak of its loss, in bytes for each token and word:

    e     the head's output
    4     in float32, where e is 2
    4     log-softmax, which the backward pass needs
    8     its exponential and their product, for the entropy

or, with an entropy bonus, in the backward pass: e, and 20 of log-softmax, its exponential and three gradients. Without
a gradient (reference, probe): 12 for float32 logits, log-softmax and what goes into it.

tests/sizing/test_activations.py holds all of this against what autograd and the allocator of real models do.
"""

from typing import Final

from bai_pipeline.sizing.footprint import ELEMENT_BYTES, Dtype
from bai_pipeline.sizing.shape import ModelShape

GRADIENT_SHARE: Final = 0.2
"""Gradients that are alive at a time, as a share of what a layer keeps: measured, 0.02 to 0.22 (what was kept is given
back as the pass goes on)."""


def layer_activations(shape: ModelShape, dtype: Dtype, *, sparse: bool) -> int:
    """Bytes that one layer keeps of one token.

    Args:
        sparse: of a layer with experts, or one with a dense MLP.
    """
    e = ELEMENT_BYTES[dtype]
    norms = 2 * (4 + 2 * e) * shape.hidden
    if shape.query_key_norm != "none":
        norms += (4 + e) * (shape.queries + shape.keys)
    attention = e * (2 * shape.queries + 2 * shape.keys) + 4 * shape.heads
    if sparse:
        chosen = shape.experts_per_token * e * (2 * shape.hidden + 4 * shape.expert_width)
        return norms + attention + chosen + 4 * shape.experts
    return norms + attention + 4 * e * shape.dense_width


def kept_activations(shape: ModelShape, tokens: int, dtype: Dtype, *, checkpointing: bool) -> int:
    """Bytes that all layers and the last norm keep of `tokens` tokens, until the backward pass comes to them."""
    e = ELEMENT_BYTES[dtype]
    if checkpointing:
        layers = shape.layers * e * shape.hidden
    else:
        sparse = layer_activations(shape, dtype, sparse=True) if shape.sparse_layers else 0
        dense = layer_activations(shape, dtype, sparse=False) if shape.dense_layers else 0
        layers = shape.sparse_layers * sparse + shape.dense_layers * dense
    return tokens * (layers + (4 + 2 * e) * shape.hidden)


def backward_workspace(shape: ModelShape, tokens: int, dtype: Dtype, *, checkpointing: bool) -> int:
    """Bytes more while the backward pass is in a layer: its gradients, and itself where it has to be computed again."""
    return int(forward_workspace(shape, tokens, dtype) * (checkpointing + GRADIENT_SHARE))


def forward_workspace(shape: ModelShape, tokens: int, dtype: Dtype) -> int:
    """Bytes of a forward pass that keeps nothing: about what one layer would keep."""
    return tokens * max(
        layer_activations(shape, dtype, sparse=True) if shape.sparse_layers else 0,
        layer_activations(shape, dtype, sparse=False) if shape.dense_layers else 0,
    )


def training_logits(shape: ModelShape, tokens: int, dtype: Dtype, *, entropy_bonus: bool = False) -> int:
    """Bytes of the logits and what is made of them, at the peak of the policy's loss."""
    e = ELEMENT_BYTES[dtype]
    return tokens * shape.vocabulary * (e + 20 if entropy_bonus else e + (4 if e == 2 else 0) + 12)


def forward_logits(shape: ModelShape, tokens: int) -> int:
    """Bytes of the logits where only their log-probabilities are wanted."""
    return 12 * tokens * shape.vocabulary
