"""The recipe that a checkpoint records against the one that was asked for."""

import json
from typing import Final

from bai_pipeline.checkpoints import Manifest
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging.recipe import Recipe

MERGE_VERSION: Final = "2"
"""Raised whenever the same recipe and models would give another checkpoint, its manifest included."""


def check_recorded_recipe(manifest: Manifest, recipe: Recipe) -> None:
    """A merged checkpoint was made by exactly this recipe, from exactly its models.

    Raises:
        RecipeError: the manifest records another recipe, none, or other parents; the message gives both.
    """
    if manifest.recipe is None:
        raise RecipeError("expected a merged checkpoint, the manifest records no recipe")
    recorded, requested = json.dumps(manifest.recipe, sort_keys=True, separators=(",", ":")), recipe.to_json()
    if recorded != requested:
        raise RecipeError(f"the checkpoint was merged by another recipe: expected {requested}, recorded is {recorded}")
    if manifest.parents.keys() != set(recipe.models):
        raise RecipeError(
            f"the checkpoint was merged from {', '.join(sorted(manifest.parents))}, expected {', '.join(recipe.models)}"
        )
