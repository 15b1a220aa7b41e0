"""The merge methods by name. A method is a file of its own; importing it registers it.

Legend: E elements of a chunk, all chunks flat float32 tensors of one shape (E,). A method sees its inputs chunk by
chunk, so that memory does not grow with the model. One that needs facts about whole tensors (an angle, a threshold)
first scans them, as often as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bai_pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

SCAN_ELEMENTS: Final = 64 * 1024
"""Elements of a chunk while a method scans: fixed, so that sums over chunks do not depend on how a merge is cut."""

Params = Mapping[str, Any]
Scan = Callable[[], "Iterator[Sequence[Tensor]]"]
"""Starts at the front of the tensor anew at each call: for every SCAN_ELEMENTS (the last chunk is shorter) the inputs'
chunks, (E,) float32 each, valid until the next."""


@dataclass(frozen=True)
class Place:
    """Where a chunk lies, and what is known of the tensor that it belongs to."""

    tensor: str
    """The tensor's name."""
    inputs: tuple[str, ...]
    """What the inputs are called: models by their names, nodes by their method and inputs."""
    start: int
    """Flat position of the chunk's first element, a multiple of four."""
    params: Params
    facts: Any
    """What the method's `scan` returned; None without one."""
    disposable: frozenset[int] = frozenset()
    """Inputs that nothing else needs: a method may compute in their memory."""


Combine = Callable[["Sequence[Tensor]", Sequence[float], Place], "Tensor"]
"""(inputs, weights, place) to output: float32 tensors (E,); no input is changed but those that are disposable.

The weights are exactly representable in float32, one per input.
"""


def _accept(weights: Sequence[float], params: Params) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """What the engine knows of a method."""

    name: str
    combine: Combine
    reference: str
    """The paper that defines it."""
    params: frozenset[str] = field(default_factory=frozenset)
    """The names of the params that it takes."""
    check: Callable[[Sequence[float], Params], None] = _accept
    """Raises RecipeError for weights or params that the method cannot use; the weights sum to one already."""
    scan: Callable[[Scan, Sequence[float], Params], Any] | None = None
    """Facts about the whole of one tensor, for `Place.facts`."""
    linear: bool = False
    """The output is `linear` of the inputs, so that the native kernel can compute it."""


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Make a method known by its name."""
    _METHODS[method.name] = method
    return method


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in _METHODS:
        raise RecipeError(f"unknown merge method {name!r}, expected one of {', '.join(sorted(_METHODS))}")
    return _METHODS[name]


def method_names() -> list[str]:
    """All methods, in alphabetical order."""
    return sorted(_METHODS)
