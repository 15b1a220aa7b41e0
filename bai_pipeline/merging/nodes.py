"""The nodes of a recipe, and the rule for weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
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
    """Other weights, one per input, for the tensors whose names match `pattern`."""

    pattern: str
    """As the shell's: `*` any text, `?` any character, `[…]` one of a set; the whole name must match."""
    weights: tuple[float, ...]


@dataclass(frozen=True)
class MethodNode:
    """A method over weighted inputs.

    Raises:
        RecipeError: unknown method, params that it does not take, weights (of an override too) that are negative, do
            not sum to one or are not what the method can use.
    """

    method: str
    inputs: tuple[Input, ...]
    overrides: tuple[Override, ...] = ()
    """The first whose pattern matches a tensor's name gives that tensor's weights."""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        method = find_method(self.method)
        unknown = sorted(set(self.params) - method.params)
        if unknown:
            known = ", ".join(sorted(method.params)) or "none"
            raise RecipeError(
                f"unknown params of {self.method}: {', '.join(unknown)}; it takes {known}; no checkpoint was written"
            )
        self.check()

    def check(self) -> None:
        """Assert the weights of this node and of those below."""
        method = find_method(self.method)
        for override in self.overrides:
            if len(override.weights) != len(self.inputs):
                raise RecipeError(
                    f"override {override.pattern!r} of {self}: expected {len(self.inputs)} weights, one per input, got "
                    f"{len(override.weights)}; no checkpoint was written"
                )
        for weights in [tuple(input.weight for input in self.inputs), *(o.weights for o in self.overrides)]:
            check_weights([(str(input.node), weight) for input, weight in zip(self.inputs, weights, strict=True)])
            method.check(weights, self.params)
        for input in self.inputs:
            if isinstance(input.node, MethodNode):
                input.node.check()

    def weights_of(self, tensor: str) -> tuple[float, ...]:
        """One weight per input for the tensor of that name."""
        for override in self.overrides:
            if fnmatchcase(tensor, override.pattern):
                return override.weights
        return tuple(input.weight for input in self.inputs)

    def walk(self) -> Iterator["MethodNode"]:
        """This node and all method nodes below it."""
        yield self
        for input in self.inputs:
            if isinstance(input.node, MethodNode):
                yield from input.node.walk()

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
