"""Merging checkpoints by recipe. Neither what is named here nor a merge by the native kernel imports torch."""

from bai_pipeline.merging.nodes import Input, MethodNode, ModelNode, Override, check_weights
from bai_pipeline.merging.recipe import Dtype, Recipe, bai_recipe, check_alpha, stage_1_recipe
from bai_pipeline.merging.record import MERGE_VERSION, check_recorded_recipe

__all__ = [
    "MERGE_VERSION",
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
