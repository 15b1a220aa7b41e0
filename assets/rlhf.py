"""Stage 4: PPO from each initialization, one job per seed; what a run needs besides its actor is the same for all."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph
from resources import ComputeResource, StudyResource

CHECKS = {"no_length_collapse": "The mean response length has not collapsed, as far as the run can tell."}
"""Made inside the PPO job."""
SHARED = ("prompts", "reward_model", "critic_model")
"""What a run needs besides its actor, as far as the study has it."""


def rlhf_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    @dg.asset(
        partitions_def=graph.alphas,
        deps=graph.deps("bai_actor", *SHARED),
        check_specs=graph.job_checks("ppo_run", **CHECKS),
        **graph.options("rlhf", "ppo", "pytorch"),
    )
    def ppo_run(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """PPO from bai_actor: its policies and its metrics tables."""
        return materialize(context, study, compute)

    roles = {"paradigm_1_run": graph.study.paradigm_1, "paradigm_3_run": graph.study.paradigm_3}
    return [*(_baseline(graph, name, role) for name, role in roles.items() if role), ppo_run]


def _baseline(graph: Graph, name: str, role: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=name,
        description=f"Baseline: PPO from {role}_sft itself, without merging.",
        deps=graph.deps(f"{role}_sft", *SHARED),
        check_specs=graph.job_checks(name, **CHECKS),
        **graph.options("rlhf", "ppo", "pytorch"),
    )
    def paradigm_run(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        return materialize(context, study, compute)

    return paradigm_run
