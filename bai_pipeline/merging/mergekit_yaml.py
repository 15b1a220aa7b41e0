"""mergekit configurations (https://github.com/arcee-ai/mergekit) as recipes, where the methods are the same.

What a recipe cannot say is refused by key and line: layers that are stacked, other methods, densities that change with
depth. Weights here sum to one, so mergekit's normalization is carried out while reading; what task vectors are
multiplied by in all is the param `scale`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.mergekit_document import IGNORED, Configuration, Source, read_configuration
from bai_pipeline.merging.mergekit_settings import Cell, Setting, cells_of, read_setting
from bai_pipeline.merging.nodes import TOLERANCE, Input, MethodNode, ModelNode, Override
from bai_pipeline.merging.recipe import Recipe
from bai_pipeline.merging.yaml_values import Value

_NORMALIZED: Final = frozenset({"linear", "ties"})
"""The methods that divide by the sum of the weights unless told otherwise."""
_PRUNED: Final = frozenset({"ties", "dare_linear", "dare_ties"})
_RANDOM: Final = frozenset({"dare_linear", "dare_ties"})
_ELECTED: Final = frozenset({"ties", "dare_ties"})

Row = tuple[float, ...]
"""One weight per input."""


@dataclass(frozen=True)
class MergekitMerge:
    """What a configuration asks for."""

    recipe: Recipe
    models: dict[str, Path]
    """Where the models lie: those of the recipe, and the tokenizer's if it is none of them."""
    tokenizer_from: str
    """The model whose tokenizer the output gets: the base (or first model) unless the configuration names another."""
    notes: tuple[str, ...]
    """What is ignored or done in another way."""


def read_mergekit(text: str, where: str, *, layers: int | None = None, seed: int = 0) -> MergekitMerge:
    """The merge that a configuration describes.

    Args:
        text: YAML.
        where: the name of the file, for messages.
        layers: of the models; needed for gradients and slices, see `mergekit_models`.
        seed: of DARE's masks, which mergekit takes from its command line.

    Raises:
        RecipeError: no configuration, or one that no recipe can express.
    """
    configuration = read_configuration(text, where)
    _check_whole(configuration, layers)
    cells, rows, params = _READERS.get(configuration.method, _task_vectors)(configuration, layers, seed)
    inputs = (Input(ModelNode(name), w) for name, w in zip(configuration.sources, rows[-1], strict=True))
    overrides = (Override(str(cell.pattern), row) for cell, row in zip(cells[:-1], rows[:-1], strict=True))
    try:
        node = MethodNode(configuration.method, tuple(inputs), tuple(overrides), params)
    except RecipeError as error:
        raise RecipeError(f"{configuration.place}: {error}") from None
    return MergekitMerge(
        Recipe(node, configuration.dtype),
        _models(configuration),
        configuration.tokenizer_from,
        tuple(_notes(configuration, params)),
    )


def mergekit_models(text: str, where: str) -> dict[str, Path]:
    """Where the models of a configuration lie, the base first: whoever reads it may count their layers.

    Raises:
        RecipeError: no configuration.
    """
    return _models(read_configuration(text, where))


def _models(configuration: Configuration) -> dict[str, Path]:
    paths = {name: source.path for name, source in configuration.sources.items()}
    return paths | {configuration.tokenizer_from: configuration.tokenizer_path}


def _check_whole(configuration: Configuration, layers: int | None) -> None:
    """A slice must hold all layers."""
    for source in configuration.sources.values():
        if source.layers is not None:
            place, first, stop = source.layers
            if layers is None:
                place.fail("a slice needs the number of layers, which is not known; expected models instead of slices")
            if (first, stop) != (0, layers):
                place.fail(f"layers cannot be left out, expected [0, {layers}], got [{first}, {stop}]")


def _linear(
    configuration: Configuration, layers: int | None, seed: int
) -> tuple[list[Cell], list[Row], dict[str, Any]]:
    """mergekit: y = Σ w_i x_i / Σ w_i, without the division if `normalize` is false."""
    settings = [_weight(source, configuration.parameters) for source in configuration.sources.values()]
    cells = cells_of(settings, layers)
    rows, totals = _shares(cells, settings)
    if not _flag(configuration, "normalize") and any(total != 1.0 for total in totals):
        configuration.parameters["normalize"].fail(
            f"without it weights must sum to one, got {next(total for total in totals if total != 1.0):.12g}"
        )
    return cells, rows, {}


def _slerp(configuration: Configuration, layers: int | None, seed: int) -> tuple[list[Cell], list[Row], dict[str, Any]]:
    """mergekit: from the base (t = 0) to the other model (t = 1)."""
    _need_base(configuration)
    if len(configuration.sources) != 2:
        raise RecipeError(
            f"{configuration.place}: slerp needs base_model and one other model, got {len(configuration.sources)} in "
            "all; no checkpoint was written"
        )
    if "t" not in configuration.parameters:
        raise RecipeError(f"{configuration.place}: the parameter t is missing; no checkpoint was written")
    setting = read_setting(configuration.parameters["t"])
    for condition in setting:
        if not all(0.0 <= value <= 1.0 for value in condition.values):
            condition.source.fail(f"t must be between 0 and 1, got {', '.join(map(str, condition.values))}")
    cells = cells_of([setting], layers)
    return cells, [(1.0 - t, t) for t in (cell.values[0] for cell in cells)], {}


def _task_vectors(
    configuration: Configuration, layers: int | None, seed: int
) -> tuple[list[Cell], list[Row], dict[str, Any]]:
    """mergekit: y = base + λ Σ w_i τ_i, divided by Σ w_i if `normalize` is true; with election, by what agrees."""
    _need_base(configuration)
    base, *others = configuration.sources.values()
    for value in base.parameters.values():
        value.fail("the base has no task vector, expected no parameters of its own")
    if not others:
        raise RecipeError(f"{configuration.place}: expected a model beside base_model; no checkpoint was written")
    method, given = configuration.method, configuration.parameters
    settings = [_weight(source, given) for source in others]
    cells = cells_of(settings, layers)
    rows, totals = _shares(cells, settings)
    scale = given["lambda"].number() if "lambda" in given else 1.0
    if scale <= 0.0:
        given["lambda"].refuse("a positive number")
    normalize = _flag(configuration, "normalize")
    if not normalize:
        if max(totals) - min(totals) > TOLERANCE * max(totals):
            settings[0][0].source.fail(
                f"without normalize, expected weights with one sum for all tensors, got sums from {min(totals):.12g} "
                f"to {max(totals):.12g}"
            )
        scale *= totals[-1]
    params: dict[str, Any] = {"scale": scale}
    if method in _PRUNED:
        densities = [_density(source, given) for source in others]
        params["density"] = densities[0] if len(set(densities)) == 1 else densities
    if method in _ELECTED:
        params["normalize"] = normalize
    if method in _RANDOM:
        params |= {"seed": seed, "rescale": given["rescale"].flag() if "rescale" in given else True}
    return cells, [(0.0, *row) for row in rows], params


_READERS: Final = {"linear": _linear, "slerp": _slerp}


def _need_base(configuration: Configuration) -> None:
    if not configuration.has_base:
        raise RecipeError(f"{configuration.place}: base_model is missing; no checkpoint was written")


def _weight(source: Source, given: Mapping[str, Value]) -> Setting:
    """A model's own weight, and where that has none the one for all."""
    otherwise = read_setting(given["weight"]) if "weight" in given else None
    if "weight" in source.parameters:
        return read_setting(source.parameters["weight"], otherwise)
    if otherwise is None:
        source.value.fail("weight is missing")
    return otherwise


def _density(source: Source, given: Mapping[str, Value]) -> float:
    value = source.parameters.get("density", given.get("density"))
    if value is None:
        return 1.0
    expected = "a number above 0 and at most 1 (one that changes with depth or tensor cannot be carried over)"
    density = value.number(expected)
    if not 0.0 < density <= 1.0:
        value.refuse(expected)
    return density


def _flag(configuration: Configuration, name: str) -> bool:
    if name in configuration.parameters:
        return configuration.parameters[name].flag()
    return configuration.method in _NORMALIZED


def _shares(cells: Sequence[Cell], settings: Sequence[Setting]) -> tuple[list[Row], list[float]]:
    """Weights divided by their sum, and the sums; a sum that is one but for rounding is 1.0 and changes nothing."""
    rows, totals = [], []
    for cell in cells:
        total = math.fsum(cell.values)
        if min(cell.values) < 0.0 or total <= 0.0:
            settings[0][0].source.fail(
                "weights must be non-negative and not all 0, got "
                f"{', '.join(f'{value:.12g}' for value in cell.values)} for {cell.pattern or 'all other tensors'}"
            )
        is_one = abs(total - 1.0) <= TOLERANCE
        rows.append(cell.values if is_one else tuple(value / total for value in cell.values))
        totals.append(1.0 if is_one else total)
    return rows, totals


def _notes(configuration: Configuration, params: Mapping[str, Any]) -> list[str]:
    notes = [
        f"{value.place}: ignored, it changes memory only"
        for name, value in configuration.parameters.items()
        if name in IGNORED
    ]
    if params.get("rescale") and params["density"] != 1.0:
        notes.append(
            f"{configuration.place}: what {configuration.method} keeps is divided by the density (Yu et al. 2024), "
            f"where mergekit restores the sum of magnitudes; the masks are those of seed {params['seed']}"
        )
    return notes
