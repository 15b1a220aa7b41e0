"""The merge methods by name. A method is a plain function in a file of its own; importing it registers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bai_pipeline.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

Combine = Callable[[Sequence["Tensor"], Sequence[float]], "Tensor"]
"""(inputs, weights) to output: float32 tensors of one shape (E,), E the elements of a chunk; no input is changed.

The weights are exactly representable in float32.
"""


@dataclass(frozen=True)
class Method:
    """What the engine knows of a method."""

    name: str
    combine: Combine
    reference: str
    """The paper that defines it."""
    params: frozenset[str]
    """The names of the params that it takes."""


_METHODS: dict[str, Method] = {}


def register(name: str, *, reference: str, params: Sequence[str] = ()) -> Callable[[Combine], Combine]:
    """Make a function known as the method `name`."""

    def remember(combine: Combine) -> Combine:
        _METHODS[name] = Method(name, combine, reference, frozenset(params))
        return combine

    return remember


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none.
    """
    if name not in _METHODS:
        raise RecipeError(f"unknown merge method {name!r}, expected one of {', '.join(sorted(_METHODS))}")
    return _METHODS[name]
