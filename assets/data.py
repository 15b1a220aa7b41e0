"""Stage 1: tables, made by the embedded world or taken from the study's paths."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph
from resources import ComputeResource, StudyResource


def data_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    @dg.asset(**graph.options("data", "pretraining_data", "parquet"))
    def pretraining_data(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Documents of the embedded world that the base model is pretrained on."""
        return materialize(context, study, compute)

    @dg.asset(**graph.options("data", "sft_data", "parquet"))
    def sft_data(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """Supervised conversations, one table per SFT role that is trained."""
        return materialize(context, study, compute)

    @dg.asset(**graph.options("data", "prompts", "parquet"))
    def prompts(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """Prompts of PPO, with answers where a verifier can judge them."""
        return materialize(context, study, compute)

    @dg.asset(**graph.options("data", "benchmark_data", "json"))
    def benchmark_data(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Problems of the benchmarks; the embedded ones are held out from all training data."""
        return materialize(context, study, compute)

    sampled_from = [f"{role}_sft" for role in graph.study.preferences.sampled_from]
    sources = [] if graph.study.data.preferences else sampled_from

    @dg.asset(deps=graph.deps(*sources), **graph.options("data", "preferences", "parquet"))
    def preference_data(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Pairs of a better and a worse response that the reward model is trained on."""
        return materialize(context, study, compute)

    return [pretraining_data, sft_data, prompts, benchmark_data, preference_data]
