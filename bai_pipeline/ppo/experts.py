"""The experts of one layer, in the ways that `OlmoeDecoder` computes them on a CPU.

N tokens, k experts of each, hidden size H D, E experts of width F.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bai_pipeline.native.library import Native

DENSE_EXPERTS_MAX = 2**16
"""Weights E F H D up to which computing all experts for each token costs less than sorting the tokens by expert."""

COPIED_EXPERTS_MAX = 2**22
"""Weights E F H D up to which routed experts are copied: the products of few tokens are faster with it, but a large
model is not to be in memory twice."""


class Experts(Protocol):
    """The experts of a layer."""

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Output (N, H D) on `hidden` (N, H D): the experts `chosen` (N, k), weighted by `weights` (N, k)."""


def build_experts(gate_up: Tensor, down: Tensor, native: Native | None) -> Experts:
    """The fastest for weights (E, 2 F, H D) and (E, H D, F)."""
    if native is not None and down.numel() <= COPIED_EXPERTS_MAX:
        return _NativeExperts(gate_up, down, native)
    # torch's grouped product wants rows of a multiple of 16 bytes.
    routed = down.numel() > DENSE_EXPERTS_MAX and all(width % 4 == 0 for width in down.shape[1:])
    return (_RoutedExperts if routed else _DenseExperts)(gate_up, down)


class _NativeExperts:
    """Each token through its own experts only, in native code."""

    def __init__(self, gate_up: Tensor, down: Tensor, native: Native) -> None:
        self._gate_up, self._down = (weight.transpose(1, 2).contiguous() for weight in (gate_up, down))
        self._native = native

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        return self._native.experts(hidden, chosen, weights, self._gate_up, self._down)


class _DenseExperts:
    """All experts on all tokens: for few and narrow experts that is cheaper than sorting the tokens."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        self._count = len(down)
        self._gate_up = gate_up.flatten(0, 1)  # (E 2 F, H D)
        self._down = down.transpose(1, 2).flatten(0, 1)  # (E F, H D)

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        gate = torch.zeros(len(hidden), self._count).scatter_(1, chosen, weights)  # (N, E), 0 where not chosen
        gate_up = F.linear(hidden, self._gate_up).view(len(hidden), self._count, 2, -1)
        inner = F.silu(gate_up[:, :, 0]).mul_(gate_up[:, :, 1]).mul_(gate[..., None])  # (N, E, F)
        return inner.view(len(hidden), -1) @ self._down


class _RoutedExperts:
    """Each token through its own experts only, sorted by expert."""

    def __init__(self, gate_up: Tensor, down: Tensor) -> None:
        self._gate_up, self._down = gate_up.transpose(1, 2), down.transpose(1, 2)  # (E, H D, 2 F) and (E, F, H D)
        if down.numel() <= COPIED_EXPERTS_MAX:
            self._gate_up, self._down = self._gate_up.contiguous(), self._down.contiguous()

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        count, each = chosen.shape
        order = chosen.view(-1).argsort(stable=True)  # (N k), the assignments by expert
        ends = torch.bincount(chosen.view(-1), minlength=len(self._down)).cumsum(0, dtype=torch.int32)
        gate, up = F.grouped_mm(hidden[order // each], self._gate_up, offs=ends).chunk(2, -1)
        inner = F.silu(gate).mul_(up).mul_(weights.view(-1)[order, None])  # (N k, F)
        sorted_output = F.grouped_mm(inner, self._down, offs=ends)  # (N k, H D)
        output = torch.empty_like(sorted_output)
        output[order] = sorted_output
        return output.view(count, each, -1).sum(1)
