"""What a merge will write, decided before a byte is written: which tensors, of which shape, from which rows of whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from bai_pipeline.checkpoints import Checkpoint, FitReport, TensorInfo, check_fit
from bai_pipeline.errors import CheckpointError, RecipeError
from bai_pipeline.merging.program import Program, compile_program
from bai_pipeline.merging.recipe import MERGED_DTYPES, Recipe


@dataclass(frozen=True)
class Run:
    """Elements from `start` to before `stop`, flat: merged, or copied from the donor."""

    start: int
    stop: int
    donor: str | None = None


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the output and where its elements come from."""

    info: TensorInfo
    """Name, dtype and shape; file and start are those of the first model."""
    runs: tuple[Run, ...]
    """Ascending, without gaps: all elements of the output."""

    @property
    def merged_ranges(self) -> list[tuple[int, int]]:
        return [(run.start, run.stop) for run in self.runs if run.donor is None]


@dataclass(frozen=True)
class MergePlan:
    """Recipes over the same models, whose headers and configs have been read and found to fit together."""

    recipes: tuple[Recipe, ...]
    checkpoints: Mapping[str, Checkpoint]
    """Every merged model in the order of the first recipe, then the tokenizer's when it is not one of them."""
    models: tuple[str, ...]
    """The merged ones; the first gives config, names, dtypes and shards."""
    tokenizer_from: str
    tensors: Mapping[str, MergedTensor]
    """In the order of the first model's shards."""
    fit: FitReport
    _programs: dict[object, Program] = field(default_factory=dict, init=False, repr=False, compare=False)

    def program(self, tensor: str) -> Program:
        """What is computed for a tensor, with an output per recipe; compiled once for all of the same weights."""
        weights = tuple(node.weights_of(tensor) for recipe in self.recipes for node in recipe.nodes())
        if weights not in self._programs:
            self._programs[weights] = compile_program(self.recipes, self.models, tensor)
        return self._programs[weights]

    @property
    def base(self) -> Checkpoint:
        """The first model."""
        return self.checkpoints[self.models[0]]

    @property
    def nbytes(self) -> int:
        """Bytes of tensors of one output."""
        return sum(tensor.info.nbytes for tensor in self.tensors.values())

    @property
    def missing_rows(self) -> dict[str, list[list[int]]]:
        """Row ranges that come from the donor, by tensor, as the manifest records them."""
        return {name: [list(rows) for rows in ranges] for name, ranges in sorted(self.fit.missing_rows.items())}


def plan_merge(
    recipes: Sequence[Recipe],
    models: Mapping[str, Path],
    tokenizer_from: str,
    missing_rows_from: str | None = None,
) -> MergePlan:
    """Open the checkpoints and see that they can be merged; reads no tensor.

    Args:
        recipes: at least one; all of the same models and dtype.
        models: the directory of every model of the recipes and of `tokenizer_from`.
        missing_rows_from: the merged model whose embedding rows stand in where another has none (an added token, a
            padded vocabulary); None: `tokenizer_from`, when it is merged.

    Raises:
        RecipeError: weights out of range, recipes of different models, an override that is for no tensor, or a model
            that `models` has not.
        FitError: the checkpoints cannot be combined.
        CheckpointError: a checkpoint is malformed or of a dtype that cannot be merged.
    """
    for recipe in recipes:
        recipe.check()
    merged, dtype = recipes[0].models, recipes[0].dtype
    for recipe in recipes[1:]:
        if set(recipe.models) != set(merged) or recipe.dtype != dtype:
            raise RecipeError(
                f"recipes that are merged in one pass need the same models and dtype, got {', '.join(merged)} ({dtype})"
                f" and {', '.join(recipe.models)} ({recipe.dtype}); no checkpoint was written"
            )
    checkpoints = _open(list(dict.fromkeys([*merged, tokenizer_from])), models)
    base = checkpoints[merged[0]]
    if missing_rows_from is None and tokenizer_from in merged:
        missing_rows_from = tokenizer_from
    fit = check_fit(checkpoints, merged=merged, missing_rows_from=missing_rows_from, tokenizer_from=tokenizer_from)
    _check_dtypes(merged[0], base)
    left_out = fit.left_out.get(merged[0], ())
    tensors = {
        name: _merged_tensor(replace(info, dtype=dtype or info.dtype), fit)
        for name, info in base.tensors.items()
        if name not in left_out
    }
    for recipe in recipes:
        recipe.check_patterns(tensors)
    return MergePlan(tuple(recipes), checkpoints, merged, tokenizer_from, tensors, fit)


def _open(names: Sequence[str], models: Mapping[str, Path]) -> dict[str, Checkpoint]:
    unknown = [name for name in names if name not in models]
    if unknown:
        known = ", ".join(sorted(models))
        raise RecipeError(f"unknown model {', '.join(unknown)}, expected one of {known}; no checkpoint was written")
    return {name: Checkpoint.open(models[name]) for name in names}


def _check_dtypes(name: str, checkpoint: Checkpoint) -> None:
    for tensor in checkpoint.tensors.values():
        if tensor.dtype not in MERGED_DTYPES:
            raise CheckpointError(
                f"{tensor.file}: tensor {tensor.name} of {name} is {tensor.dtype}, expected one of "
                f"{', '.join(MERGED_DTYPES)}; no checkpoint was written"
            )


def _merged_tensor(info: TensorInfo, fit: FitReport) -> MergedTensor:
    if fit.rows is not None and info.name in fit.vocabulary_tensors:
        info = replace(info, shape=(fit.rows, *info.shape[1:]))
    width = prod(info.shape[1:])
    runs, position = [], 0
    for first, last in fit.missing_rows.get(info.name, ()):
        if first * width > position:
            runs.append(Run(position, first * width))
        runs.append(Run(first * width, last * width, fit.donor))
        position = last * width
    if position < info.elements:
        runs.append(Run(position, info.elements))
    return MergedTensor(info, tuple(runs))
