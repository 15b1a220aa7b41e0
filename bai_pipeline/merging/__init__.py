"""Merging checkpoints by recipe. `bai_pipeline.merging.engine` imports torch; what is named here does not."""

from bai_pipeline.merging.nodes import Input, MethodNode, ModelNode, Override, check_weights
from bai_pipeline.merging.recipe import Dtype, Recipe, bai_recipe, check_alpha, stage_1_recipe
from bai_pipeline.merging.record import check_recorded_recipe

__all__ = [
    "Dtype",
    "Input",
    "MethodNode",
    "ModelNode",
    "Override",
    "Recipe",
    "bai_recipe",
    "check_alpha",
    "check_recorded_recipe",
    "check_weights",
    "stage_1_recipe",
]
