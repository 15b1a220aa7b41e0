"""Merge recipes, version 1: which models are combined, how, and with which weights.

A recipe is a tree. A node is a model or a method over weighted nodes; Stage 2 of BAI is `linear` over the base and the
Stage 1 node, so that both lists of weights stay visible. Imports no torch.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal, Self, get_args

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.node_json import node_from_dict, node_to_dict, object_fields, refuse
from bai_pipeline.merging.nodes import Input, MethodNode, ModelNode, Node, check_weights

Dtype = Literal["F32", "BF16", "F16"]
"""The dtypes that can be merged, by their safetensors names."""

MERGED_DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)


@dataclass(frozen=True)
class Recipe:
    """A tree whose weights are valid node by node and as a whole.

    Raises:
        RecipeError: the flat weights are negative or do not sum to one.
    """

    root: Node
    dtype: Dtype | None = None
    """Of the output; None keeps each tensor's dtype in the first model of the tree."""

    def __post_init__(self) -> None:
        self.check()

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the order of the tree, each once; the first gives config, names, dtypes and shards."""
        return tuple(self.flat_weights())

    def flat_weights(self) -> dict[str, float]:
        """What each model weighs in the whole tree, overrides aside: products along the branches, added up."""
        weights: dict[str, float] = {}

        def collect(node: Node, weight: float) -> None:
            if isinstance(node, ModelNode):
                weights[node.model] = weights.get(node.model, 0.0) + weight
            else:
                for input in node.inputs:
                    collect(input.node, weight * input.weight)

        collect(self.root, 1.0)
        return weights

    def nodes(self) -> list[MethodNode]:
        """The method nodes, a node before those below it."""
        return list(self.root.walk()) if isinstance(self.root, MethodNode) else []

    def check_patterns(self, tensors: Collection[str]) -> None:
        """Every override must be for some tensor: one that matches none is a slip of the pen.

        Raises:
            RecipeError: a pattern matches none of the names.
        """
        for node in self.nodes():
            for override in node.overrides:
                if not any(fnmatchcase(tensor, override.pattern) for tensor in tensors):
                    raise RecipeError(
                        f"override {override.pattern!r} of {node} matches none of the {len(tensors)} tensors, such as "
                        f"{next(iter(tensors), None)!r}; no checkpoint was written"
                    )

    @property
    def weight_sum(self) -> float:
        """The sum of the flat weights: one, up to rounding."""
        return math.fsum(self.flat_weights().values())

    def check(self) -> None:
        """Assert the weights of every node and of the whole tree; the engine does so again before it writes.

        Raises:
            RecipeError: some are negative or do not sum to one.
        """
        if isinstance(self.root, MethodNode):
            self.root.check()
        check_weights(list(self.flat_weights().items()))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON values; every field is present."""
        return {"version": 1, "dtype": self.dtype, "root": node_to_dict(self.root)}

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces; a weight is the shortest decimal that reads back the same."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """The recipe that JSON values describe; `dtype`, `overrides` and `params` may be absent.

        Raises:
            RecipeError: they describe none; the message names the field.
        """
        fields = object_fields(value, "recipe", required={"version", "root"}, optional={"dtype"})
        if fields["version"] != 1 or isinstance(fields["version"], bool):
            refuse("recipe.version", "1", fields["version"])
        dtype = fields.get("dtype")
        if dtype is not None and dtype not in MERGED_DTYPES:
            refuse("recipe.dtype", f"null or one of {', '.join(MERGED_DTYPES)}", dtype)
        return cls(node_from_dict(fields["root"], "recipe.root"), dtype)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The recipe that a JSON text describes.

        Raises:
            RecipeError: not JSON, or not a recipe.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"the recipe is not valid JSON: {error}") from None
        return cls.from_dict(value)


def check_alpha(alpha: float) -> None:
    """The weight on the base must be between 0 and 1.

    Raises:
        RecipeError: it is not.
    """
    if not 0.0 <= alpha <= 1.0:
        raise RecipeError(f"alpha must be between 0 and 1, got {alpha!r}; no checkpoint was written")


def _stage_1_node(sft_weights: Mapping[str, float]) -> MethodNode:
    """Σ w_i sft_i over roles ("instruct" is the model `instruct_sft`), in the order of the mapping."""
    return MethodNode(
        "linear", tuple(Input(ModelNode(f"{role}_sft"), float(weight)) for role, weight in sft_weights.items())
    )


def stage_1_recipe(sft_weights: Mapping[str, float], *, dtype: Dtype | None = None) -> Recipe:
    """The merged SFT model (paper, equation 1)."""
    return Recipe(_stage_1_node(sft_weights), dtype)


def bai_recipe(
    alpha: float, sft_weights: Mapping[str, float], base: str = "base_model", *, dtype: Dtype | None = None
) -> Recipe:
    """The PPO actor at initialization: alpha * base + (1 - alpha) * Σ w_i sft_i (paper, equation 2).

    Raises:
        RecipeError: alpha is outside [0, 1], or the weights are negative or do not sum to one.
    """
    check_alpha(alpha)
    inputs = (Input(ModelNode(base), float(alpha)), Input(_stage_1_node(sft_weights), 1.0 - alpha))
    return Recipe(MethodNode("linear", inputs), dtype)
