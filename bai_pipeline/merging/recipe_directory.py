"""A checkpoint directory without tensors: config, tokenizer, a recipe, and where the models of the recipe lie.

It is loaded like any other (`bai_pipeline.loading`): the tensors are merged while the model takes them. `merge.json`
lists the models:

    {"version": 1, "tokenizer_from": NAME, "missing_rows_from": NAME or null,
     "models": {NAME: {"path": PATH or null, "digest": DIGEST or null, "stamp": STAMP or null}}}

In the store the paths are null, for an object holds no places; a job fills them in (`localize`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bai_pipeline.checkpoints import RECIPE_FILE, Checkpoint, checkpoint_digest, read_manifest, stamp_of
from bai_pipeline.checkpoints.directory import content_files, read_json_object
from bai_pipeline.errors import CheckpointError, RecipeError
from bai_pipeline.merging.companions import write_companions
from bai_pipeline.merging.plan import MergePlan, plan_merge
from bai_pipeline.merging.recipe import Recipe
from bai_pipeline.merging.record import check_recorded_recipe

MERGE_FILE: Final = "merge.json"


@dataclass(frozen=True)
class Parentage:
    """What merge.json says."""

    tokenizer_from: str
    missing_rows_from: str | None
    models: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> str:
        value = {
            "version": 1,
            "tokenizer_from": self.tokenizer_from,
            "missing_rows_from": self.missing_rows_from,
            "models": self.models,
        }
        return json.dumps(value, sort_keys=True, indent=1) + "\n"


def is_recipe_directory(path: Path) -> bool:
    """Whether a directory's tensors are a recipe."""
    return (path / MERGE_FILE).is_file()


def write_recipe_directory(
    plan: MergePlan,
    out: Path,
    *,
    chat_template: str | None = None,
    digests: Mapping[str, str] | None = None,
    paths: bool = True,
) -> None:
    """Write the one recipe of a plan into the existing, empty directory `out`; no tensor is read.

    Args:
        digests: what is known of the models.
        paths: also where they lie now, so that the directory can be loaded as it is.
    """
    write_companions(plan, plan.recipes[0], None, out, chat_template)
    models = {
        name: _entry(checkpoint if paths else None, (digests or {}).get(name))
        for name, checkpoint in plan.checkpoints.items()
    }
    _write(out, Parentage(plan.tokenizer_from, plan.fit.donor, models))


def localize(path: Path, models: Mapping[str, Path], out: Path) -> None:
    """Copy a recipe directory into the existing, empty directory `out`, with the places of its models filled in.

    Args:
        models: the directory of every model that merge.json names; they have been verified.

    Raises:
        CheckpointError: one is not given.
    """
    known = read_parentage(path)
    absent = sorted(known.models.keys() - models.keys())
    if absent:
        raise CheckpointError(f"{path / MERGE_FILE}: no directory was given for {', '.join(absent)}")
    for name, file in {**content_files(path), RECIPE_FILE: path / RECIPE_FILE}.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(file.read_bytes())
    entries = {name: _entry(Checkpoint.open(models[name]), None) for name in known.models}
    _write(out, Parentage(known.tokenizer_from, known.missing_rows_from, entries))


def open_recipe_directory(path: Path) -> MergePlan:
    """The plan of a recipe directory, once its models are known to be those that it was written for.

    Raises:
        CheckpointError: the directory is malformed, names no places, or one of the models has changed.
        RecipeError, FitError: see `plan_merge`.
    """
    known = read_parentage(path)
    places: dict[str, Path] = {}
    for name, entry in known.models.items():
        if entry["path"] is None:
            raise CheckpointError(
                f"{path / MERGE_FILE}: says not where {name} lies: an object of a store is loaded by a job, which knows"
            )
        places[name] = Path(entry["path"])
        _check_unchanged(path, name, entry)
    return plan_merge([read_recipe(path)], places, known.tokenizer_from, known.missing_rows_from)


def read_recipe(path: Path) -> Recipe:
    """The recipe of a merged checkpoint or of a recipe directory."""
    return Recipe.from_dict(read_json_object(path, RECIPE_FILE))


def read_parentage(path: Path) -> Parentage:
    """What merge.json says.

    Raises:
        CheckpointError: it is malformed.
    """
    value = read_json_object(path, MERGE_FILE)
    match value:
        case {
            "version": 1,
            "tokenizer_from": str(tokenizer),
            "missing_rows_from": (str() | None) as donor,
            "models": dict(models),
            **rest,
        } if not rest and tokenizer in models:
            for name, entry in models.items():
                match entry:
                    case {"path": (str() | None), "digest": (str() | None), "stamp": (dict() | None), **other} if (
                        not other
                    ):
                        continue
                raise CheckpointError(f"{path / MERGE_FILE}: models.{name}: expected path, digest and stamp")
            return Parentage(tokenizer, donor, models)
    raise CheckpointError(
        f"{path / MERGE_FILE}: expected version 1 with tokenizer_from, missing_rows_from and models, tokenizer_from "
        "among them"
    )


def check_recorded(path: Path, recipe: Recipe) -> None:
    """A merged checkpoint or recipe directory is of exactly this recipe, and of exactly its models.

    Raises:
        RecipeError: it is of another; the message gives both.
    """
    if not is_recipe_directory(path):
        check_recorded_recipe(read_manifest(path), recipe)
        return
    recorded, models = read_recipe(path), read_parentage(path).models.keys()
    if recorded != recipe:
        raise RecipeError(f"{path}: expected the recipe {recipe.to_json()}, recorded is {recorded.to_json()}")
    if not models >= set(recipe.models):
        raise RecipeError(f"{path}: expected the models {', '.join(recipe.models)}, recorded are {', '.join(models)}")


def _entry(checkpoint: Checkpoint | None, digest: str | None) -> dict[str, Any]:
    path = None if checkpoint is None else str(checkpoint.path.resolve())
    return {"path": path, "digest": digest, "stamp": None if checkpoint is None else stamp_of(checkpoint)}


def _check_unchanged(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """By size, time and inode; where these differ, by every byte, if a digest is known."""
    place = Path(entry["path"])
    if stamp_of(Checkpoint.open(place)) == entry["stamp"]:
        return
    if entry["digest"] is None or checkpoint_digest(place) != entry["digest"]:
        raise CheckpointError(f"{place}: {name} has changed since {path / MERGE_FILE} was written; nothing was loaded")


def _write(out: Path, parentage: Parentage) -> None:
    (out / MERGE_FILE).write_text(parentage.to_json(), encoding="utf-8")
