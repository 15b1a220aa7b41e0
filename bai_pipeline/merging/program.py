"""Recipes as straight-line programs: what is computed for one tensor, each node once, whatever asks for it.

Nine recipes that differ in alpha share their Stage 1 node, so that it is computed once for all of them. Imports no
torch.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bai_pipeline.merging.methods import Method, find_method
from bai_pipeline.merging.node_json import node_to_dict
from bai_pipeline.merging.nodes import ModelNode, Node
from bai_pipeline.merging.recipe import Recipe


@dataclass(frozen=True)
class Apply:
    """A method over earlier values, which are numbered: first the models, then the steps."""

    method: Method
    inputs: tuple[int, ...]
    weights: tuple[float, ...]
    """Rounded to float32."""
    params: dict[str, Any]
    names: tuple[str, ...]
    """What the inputs are called."""


@dataclass(frozen=True)
class Program:
    """`models` are values 0, 1, …; each of `steps` makes the next one; `outputs` says which are wanted."""

    models: tuple[str, ...]
    steps: tuple[Apply, ...]
    outputs: tuple[int, ...]

    @property
    def is_linear(self) -> bool:
        """Whether there are weighted sums only."""
        return all(step.method.linear for step in self.steps)

    @cached_property
    def silent(self) -> list[int]:
        """The models of which a NaN or an infinity may stay out of the outputs, so that it has to be looked for.

        A sum keeps it, whatever the other terms are.
        """
        heard, waiting = set(), list(self.outputs)
        while waiting:
            value = waiting.pop()
            if value < len(self.models):
                heard.add(value)
            elif (step := self.steps[value - len(self.models)]).method.linear:
                waiting += [value for value, weight in zip(step.inputs, step.weights, strict=True) if weight != 0.0]
        return sorted(set(range(len(self.models))) - heard)


def compile_program(recipes: Sequence[Recipe], models: Sequence[str], tensor: str) -> Program:
    """The program of one tensor, with an output per recipe.

    Args:
        models: in the order in which their chunks will be given; every model of every recipe.
        tensor: its name decides which overrides apply.
    """
    steps: list[Apply] = []
    known: dict[str, int] = {}

    def value_of(node: Node) -> int:
        if isinstance(node, ModelNode):
            return models.index(node.model)
        inputs = tuple(value_of(input.node) for input in node.inputs)
        weights = node.weights_of(tensor)
        key = json.dumps([node.method, inputs, weights, node_to_dict(node)["params"]], sort_keys=True)
        if key not in known:
            known[key] = len(models) + len(steps)
            rounded = tuple(struct.unpack("f", struct.pack("f", weight))[0] for weight in weights)
            names = tuple(str(input.node) for input in node.inputs)
            steps.append(Apply(find_method(node.method), inputs, rounded, dict(node.params), names))
        return known[key]

    outputs = tuple(value_of(recipe.root) for recipe in recipes)
    return Program(tuple(models), tuple(steps), outputs)


def copy_program(models: Sequence[str], model: str, outputs: int) -> Program:
    """One model as it is, for every output: what fills the rows that not all models have."""
    return Program(tuple(models), (), (list(models).index(model),) * outputs)
