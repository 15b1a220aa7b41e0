"""Stage 3: merging. Stage 1 of the paper's method merges the SFT models, Stage 2 merges the base into them."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph
from resources import ComputeResource, StudyResource

_MERGE_CHECKS = {
    "identical_manifests": "The merged models have the same tensor names, shapes and dtypes.",
    "finite": "No tensor, read or written, holds NaN or infinity.",
}


def initialization_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    sft_models = [f"{role}_sft" for role in graph.study.sft]
    written = graph.study.actors == "checkpoint"
    actor_checks = {name: text for name, text in _MERGE_CHECKS.items() if written or name != "finite"}

    @dg.asset(**graph.options("initialization", "merge_weights", "json"))
    def merge_weights(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Weight of each model in each merge; its blocking check guards everything downstream."""
        return materialize(context, study, compute)

    @dg.asset(
        deps=graph.deps("merge_weights", *sft_models),
        check_specs=graph.job_checks("merged_sft", **_MERGE_CHECKS),
        **graph.options("initialization", "merge", "safetensors"),
    )
    def merged_sft(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """Stage 1: the weighted sum of the SFT models (paper, equation 1)."""
        return materialize(context, study, compute)

    @dg.asset(
        partitions_def=graph.alphas,
        deps=graph.deps("merge_weights", "base_model", "merged_sft", *sft_models),
        check_specs=graph.job_checks("bai_actor", **actor_checks),
        **graph.options("initialization", "actor", "safetensors"),
    )
    def bai_actor(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """PPO actor at initialization: alpha * base + (1 - alpha) * merged_sft (paper, equation 2).

        A recipe, merged while PPO loads it; with `actors: checkpoint` the study's alphas are written too, in one pass.
        """
        return materialize(context, study, compute)

    return [merge_weights, merged_sft, bai_actor]
