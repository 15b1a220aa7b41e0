"""The diagnosis of each run's training dynamics, and the advice that follows: which alpha to train."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph
from assets.inline import inline_table
from resources import ComputeResource, StudyResource

_CHECKS = {"dynamics_are_stable": "No detector found a collapse, a hockey stick, a spike or over-optimization."}


def dynamics_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    alphas = list(graph.study.alphas)

    @dg.asset(
        partitions_def=graph.alphas,
        deps=graph.deps("ppo_run"),
        check_specs=graph.job_checks("training_dynamics", **_CHECKS),
        **graph.options("dynamics", "diagnose", "table"),
    )
    def training_dynamics(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """What every detector says of the runs from bai_actor: collapse, hockey stick, KL, critic and others."""
        return materialize(context, study, compute, show=inline_table)

    @dg.asset(
        deps=graph.deps("paradigm_1_run", "paradigm_3_run"),
        check_specs=graph.job_checks("paradigm_dynamics", **_CHECKS),
        **graph.options("dynamics", "diagnose", "table"),
    )
    def paradigm_dynamics(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """What every detector says of the runs of the baselines."""
        return materialize(context, study, compute, show=inline_table)

    @dg.asset(
        deps=graph.deps(fan_in=dict.fromkeys(("ppo_run", "training_dynamics", "benchmark_scores"), alphas)),
        **graph.options("dynamics", "recommendation", "table"),
    )
    def ratio_recommendation(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Which alpha for which goal, with bands over seeds and the reason; and the alphas worth adding next."""
        return materialize(context, study, compute, show=inline_table)

    return [training_dynamics, paradigm_dynamics, ratio_recommendation]
