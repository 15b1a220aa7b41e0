"""Recipe nodes as JSON values and back; a fault is named by its place in the tree."""

from typing import Any, NoReturn

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.nodes import Input, MethodNode, ModelNode, Node, Override

_MAX_DEPTH = 16


def node_from_dict(value: object, where: str, depth: int = 0) -> Node:
    """The node at `where`.

    Raises:
        RecipeError: the values describe no node.
    """
    if depth > _MAX_DEPTH:
        raise RecipeError(f"{where}: nodes are nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict) and "model" in value:
        name = object_fields(value, where, required={"model"}, optional=set())["model"]
        if not isinstance(name, str) or not name:
            refuse(f"{where}.model", "the name of a model", name)
        return ModelNode(name)
    fields = object_fields(value, where, required={"method", "inputs"}, optional={"overrides", "params"})
    method, params = fields["method"], fields.get("params", {})
    if not isinstance(method, str):
        refuse(f"{where}.method", "the name of a method", method)
    if not isinstance(params, dict):
        refuse(f"{where}.params", "an object", params)
    inputs = _list(fields["inputs"], f"{where}.inputs")
    overrides = _list(fields.get("overrides", []), f"{where}.overrides")
    parsed = tuple(_input(entry, f"{where}.inputs[{i}]", depth) for i, entry in enumerate(inputs))
    other = tuple(_override(entry, f"{where}.overrides[{i}]", len(inputs)) for i, entry in enumerate(overrides))
    try:
        return MethodNode(method, parsed, other, params)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def _input(value: object, where: str, depth: int) -> Input:
    fields = object_fields(value, where, required={"node", "weight"}, optional=set())
    return Input(
        node_from_dict(fields["node"], f"{where}.node", depth + 1), _number(fields["weight"], f"{where}.weight")
    )


def _override(value: object, where: str, inputs: int) -> Override:
    fields = object_fields(value, where, required={"pattern", "weights"}, optional=set())
    pattern, weights = fields["pattern"], _list(fields["weights"], f"{where}.weights")
    if not isinstance(pattern, str) or not pattern:
        refuse(f"{where}.pattern", "a pattern of tensor names", pattern)
    if len(weights) != inputs:
        refuse(f"{where}.weights", f"{inputs} weights, one per input", weights)
    return Override(pattern, tuple(_number(weight, f"{where}.weights[{i}]") for i, weight in enumerate(weights)))


def object_fields(value: object, where: str, *, required: set[str], optional: set[str]) -> dict[str, Any]:
    """A JSON object with these keys and no other."""
    if not isinstance(value, dict):
        refuse(where, f"an object with {', '.join(sorted(required))}", value)
    missing, unknown = sorted(required - value.keys()), sorted(map(str, value.keys() - required - optional))
    if missing or unknown:
        faults = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown]
        raise RecipeError(f"{where}: {', '.join(faults)}")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        refuse(where, "a list", value)
    return value


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -1e300 < value < 1e300:
        refuse(where, "a number", value)
    return float(value)


def node_to_dict(node: Node) -> dict[str, Any]:
    """The node as JSON values; every field is present."""
    if isinstance(node, ModelNode):
        return {"model": node.model}
    return {
        "method": node.method,
        "inputs": [{"node": node_to_dict(input.node), "weight": input.weight} for input in node.inputs],
        "overrides": [{"pattern": override.pattern, "weights": list(override.weights)} for override in node.overrides],
        "params": dict(node.params),
    }


def refuse(where: str, expected: str, value: object) -> NoReturn:
    """Raise a RecipeError: expected this, got that."""
    text = repr(value)
    raise RecipeError(f"{where}: expected {expected}, got {text if len(text) <= 120 else text[:120] + '…'}")
