"""The nodes of a recipe, and the rule for weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.methods import find_method

TOLERANCE: Final = 1e-9
"""How far a sum of weights may be from one."""


@dataclass(frozen=True)
class ModelNode:
    """A model by the name under which the merge is given its directory."""

    model: str

    def __str__(self) -> str:
        return self.model


@dataclass(frozen=True)
class Input:
    node: "Node"
    weight: float


@dataclass(frozen=True)
class Override:
    """Other weights, one per input, for the tensors whose names match `pattern`. No method supports it yet."""

    pattern: str
    weights: tuple[float, ...]


@dataclass(frozen=True)
class MethodNode:
    """A method over weighted inputs.

    Raises:
        RecipeError: unknown method, params or overrides that it does not support, weights that are negative or do not
            sum to one.
    """

    method: str
    inputs: tuple[Input, ...]
    overrides: tuple[Override, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        method = find_method(self.method)
        if self.overrides:
            patterns = ", ".join(repr(override.pattern) for override in self.overrides)
            raise RecipeError(
                f"overrides are not supported by {self.method}, got {patterns}; no checkpoint was written"
            )
        unknown = sorted(set(self.params) - method.params)
        if unknown:
            known = ", ".join(sorted(method.params)) or "none"
            raise RecipeError(
                f"unknown params of {self.method}: {', '.join(unknown)}; it takes {known}; no checkpoint was written"
            )
        self.check()

    def check(self) -> None:
        """Assert the weights of this node and of those below."""
        check_weights([(str(input.node), input.weight) for input in self.inputs])
        for input in self.inputs:
            if isinstance(input.node, MethodNode):
                input.node.check()

    def __str__(self) -> str:
        return f"{self.method}({', '.join(str(input.node) for input in self.inputs)})"


Node = ModelNode | MethodNode


def check_weights(weights: Sequence[tuple[str, float]]) -> None:
    """Named weights must be non-negative and sum to one.

    Raises:
        RecipeError: they don't; the message names every weight and the sum.
    """
    total = sum(weight for _, weight in weights)
    if not all(weight >= 0.0 for _, weight in weights) or not abs(total - 1.0) <= TOLERANCE:
        listed = " + ".join(f"{weight!r} ({name})" for name, weight in weights) or "no weights"
        raise RecipeError(
            f"merge weights must be non-negative and sum to 1, got {listed} = {total:.12g}; no checkpoint was written"
        )
