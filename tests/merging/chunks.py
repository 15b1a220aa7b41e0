"""A method over a whole tensor, as an engine runs it: scanned in its fixed chunks, combined in chunks of any size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bai_pipeline.merging import Input, MethodNode, ModelNode
from bai_pipeline.merging.methods import SCAN_ELEMENTS, Place, Scan, find_method

CHUNKS = [4, 1000, 65_536, 1 << 20]


def random_inputs(count: int, elements: int, seed: int = 0) -> list[Tensor]:
    """A base, and models that were trained a little from it; (E,) float32 each."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(elements, generator=generator)
    return [base, *(base + 0.1 * torch.randn(elements, generator=generator) for _ in range(count - 1))]


def eighths(count: int, elements: int, seed: int = 0) -> list[Tensor]:
    """Multiples of 1/8 from -4 to 4: sums and products with such weights are exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-32, 33, (elements,), generator=generator) / 8 for _ in range(count)]


def scan_of(inputs: Sequence[Tensor]) -> Scan:
    def scan() -> Iterator[list[Tensor]]:
        for start in range(0, len(inputs[0]), SCAN_ELEMENTS):
            chunk = [x[start : start + SCAN_ELEMENTS].clone() for x in inputs]
            yield chunk
            for x in chunk:  # a chunk is valid until the next
                x.fill_(torch.nan)

    return scan


def merge(
    name: str,
    inputs: Sequence[Tensor],
    weights: Sequence[float],
    params: Mapping[str, Any] | None = None,
    *,
    chunk: int = SCAN_ELEMENTS,
    tensor: str = "model.layers.0.mlp.up_proj.weight",
    names: Sequence[str] = ("base", "instruct", "reasoning", "code"),
) -> Tensor:
    """The method's output, (E,); no input is changed."""
    method = find_method(name)
    params = params or {}
    method.check(weights, params)
    rounded = [float(np.float32(weight)) for weight in weights]
    facts = method.scan(scan_of(inputs), rounded, params) if method.scan is not None else None
    before = [x.clone() for x in inputs]
    outputs = []
    for start in range(0, len(inputs[0]), chunk):
        place = Place(tensor, tuple(names[: len(inputs)]), start, params, facts)
        outputs.append(method.combine([x[start : start + chunk] for x in inputs], rounded, place))
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert all(output.dtype == torch.float32 for output in outputs)
    return torch.cat(outputs)


def node(name: str, weights: Sequence[float], params: Mapping[str, Any] | None = None) -> MethodNode:
    """The method over models a, b, c, …"""
    inputs = tuple(Input(ModelNode("abcdefgh"[i]), weight) for i, weight in enumerate(weights))
    return MethodNode(name, inputs, params=params or {})
