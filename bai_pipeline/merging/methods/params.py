"""The params of a recipe's node, read and checked; a float is rounded to float32 once, here."""

import math
import struct
from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard, cast

from bai_pipeline.errors import RecipeError


def float32(value: float) -> float:
    """The nearest float32, infinite when there is none."""
    try:
        return cast(float, struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.inf


def scale_param(params: Mapping[str, Any]) -> float:
    """What the merged task vector is multiplied by: 1 unless given.

    Zero would return the base, and a negative scale would be a negative weight by another name.

    Raises:
        RecipeError: not a positive, finite number.
    """
    value = params.get("scale", 1.0)
    if not _is_number(value) or not 0.0 < float32(value) < math.inf:
        refuse_param("scale", "a positive, finite number", value)
    return float32(value)


def density_param(params: Mapping[str, Any], inputs: int) -> tuple[float, ...]:
    """The share of entries that each of `inputs` task vectors keeps: one number for all of them, or a list.

    Not rounded, because it is multiplied by counts.

    Raises:
        RecipeError: absent, a number outside (0, 1], or a list of another length.
    """
    given = params.get("density")
    values = given if isinstance(given, list | tuple) else [given] * inputs
    if len(values) != inputs or not all(_is_number(v) and float32(v) > 0.0 and v <= 1.0 for v in values):
        refuse_param(
            "density", f"a number above 0 and at most 1, or {inputs} of them, one per input but the base", given
        )
    return tuple(map(float, values))


def seed_param(params: Mapping[str, Any]) -> int:
    """What random masks are drawn from.

    Raises:
        RecipeError: absent or not a whole number from 0 on.
    """
    value = params.get("seed")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        refuse_param("seed", "a whole number from 0 on", value)
    return value


def flag_param(params: Mapping[str, Any], name: str, default: bool) -> bool:
    """A param that is true or false.

    Raises:
        RecipeError: neither.
    """
    value = params.get(name, default)
    if not isinstance(value, bool):
        refuse_param(name, "true or false", value)
    return value


def refuse_param(name: str, expected: str, value: object) -> NoReturn:
    """Raise a RecipeError: expected this, got that."""
    raise RecipeError(f"{name}: expected {expected}, got {value!r}; no checkpoint was written")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
