"""Numbers that mergekit lets depend on depth and tensor, as weights and overrides.

A setting is a number, a gradient (a list of numbers, interpolated over the layers) or a list of conditions, each with a
value and perhaps a filter: text that a tensor's name must contain. The first condition that holds counts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bai_pipeline.merging.yaml_values import Value


@dataclass(frozen=True)
class Condition:
    """`values` (one, or a gradient) for the tensors whose names contain `filter`; None holds for all."""

    filter: str | None
    values: tuple[float, ...]
    source: Value


Setting = tuple[Condition, ...]
"""Conditions of which the last, and no other, holds for all tensors."""


@dataclass(frozen=True)
class Cell:
    """The tensors whose names match `pattern` and no earlier one, and a value per setting for them."""

    pattern: str | None
    """None: all tensors."""
    values: tuple[float, ...]


def read_setting(value: Value, otherwise: Setting | None = None) -> Setting:
    """The setting that stands there.

    Args:
        otherwise: what holds where none of its conditions does.

    Raises:
        RecipeError: it is not one, or leaves tensors without a value.
    """
    entries = value.items() if value.is_list else []
    if not any(entry.is_mapping for entry in entries):
        return (Condition(None, _numbers(value), value),)
    conditions: list[Condition] = []
    for entry in entries:
        if conditions and conditions[-1].filter is None:
            entry.fail("this is never reached, the condition before it holds for all tensors")
        fields = entry.fields({"filter", "value"})
        if "value" not in fields:
            entry.fail("value is missing")
        text = fields["filter"].text("text of tensor names") if "filter" in fields else "*"
        conditions.append(Condition(None if text == "*" else text, _numbers(fields["value"]), fields["value"]))
    if conditions[-1].filter is not None:
        if otherwise is None:
            value.fail("expected a last condition without a filter, for all other tensors")
        conditions.extend(otherwise)
    return tuple(conditions)


def _numbers(value: Value) -> tuple[float, ...]:
    expected = "a number, a list of numbers or a list of conditions (filter, value)"
    if not value.is_list:
        return (value.number(expected),)
    numbers = tuple(item.number() for item in value.items())
    if not numbers:
        value.refuse(expected)
    return numbers if len(set(numbers)) > 1 else numbers[:1]


def interpolate(values: Sequence[float], depth: float) -> float:
    """A gradient at `depth`, from 0 (first layer) to 1 (last): its values stand at equal distances, with lines between.

    y = (1 − f) v_i + f v_{i+1},   i + f = depth · (n − 1)
    """
    position = depth * (len(values) - 1)
    left = min(int(position), len(values) - 1)
    right = min(left + 1, len(values) - 1)
    share = position - left
    return (1.0 - share) * values[left] + share * values[right]


def cells_of(settings: Sequence[Setting], layers: int | None) -> list[Cell]:
    """All tensors, cut up so that each setting is one number in each cell; the last cell holds for all the rest.

    Tensors outside the layers (embedding, last norm, output) have a gradient's first value, and the only layer of a
    model its last, as in mergekit. A tensor of layer N is one with `.layers.N.` in its name.

    Raises:
        RecipeError: two settings have different filters, which a list of patterns cannot express; or there is a
            gradient, and no number of layers or a filter that could stand before the layer's number.
    """
    conditional = [setting for setting in settings if len(setting) > 1] or list(settings[:1])
    filters = [condition.filter for condition in conditional[0]]
    for setting in conditional[1:]:
        if [condition.filter for condition in setting] != filters:
            setting[0].source.fail(
                "expected the same filters in the same order for all models, got "
                f"{_listed(setting)} here and {_listed(conditional[0])} at {conditional[0][0].source.place}"
            )
    cells: list[Cell] = []
    for number, text in enumerate(filters):
        conditions = [setting[number] if len(setting) > 1 else setting[0] for setting in settings]
        gradients = [condition for condition in conditions if len(condition.values) > 1]
        if gradients:
            cells.extend(_layer_cells(text, conditions, gradients[0].source, layers))
        pattern = None if text is None else f"*{_escaped(text)}*"
        cells.append(Cell(pattern, tuple(condition.values[0] for condition in conditions)))
    return cells


def _layer_cells(
    text: str | None, conditions: Sequence[Condition], source: Value, layers: int | None
) -> Iterator[Cell]:
    if layers is None:
        source.fail("a gradient needs the number of layers, which is not known")
    for layer in range(layers):
        if text is not None and _may_stand_before(text, layer):
            source.fail(
                f"with a gradient, expected a filter that stands after the layer's number, such as mlp, got {text!r}"
            )
        depth = layer / (layers - 1) if layers > 1 else 1.0
        pattern = f"*.layers.{layer}.*" + ("" if text is None else f"{_escaped(text)}*")
        yield Cell(pattern, tuple(interpolate(condition.values, depth) for condition in conditions))


def _may_stand_before(text: str, layer: int) -> bool:
    """Whether `text` can occur in a tensor's name without lying wholly behind `model.layers.N.`."""
    prefix = f"model.layers.{layer}."
    return text in prefix or any(text.startswith(prefix[start:]) for start in range(len(prefix)))


def _escaped(text: str) -> str:
    """`text` as a pattern that matches itself."""
    return re.sub(r"([*?[])", r"[\1]", text)


def _listed(setting: Setting) -> str:
    return ", ".join(condition.filter for condition in setting if condition.filter is not None)
