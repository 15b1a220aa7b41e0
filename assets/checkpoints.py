"""Stage 2: the base, the SFT models and the reward model; trained, or brought by path (validated, never copied)."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph, Options
from resources import ComputeResource, StudyResource


def checkpoint_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    models = [_base_model(graph), *(_sft(graph, role) for role in graph.study.sft), _reward_model(graph)]
    return models + ([_critic_model(graph)] if "critic_model" in graph.names else [])


def _base_model(graph: Graph) -> dg.AssetsDefinition:
    brought = graph.study.base.path is not None

    @dg.asset(
        deps=graph.deps("pretraining_data"),
        check_specs=_import_checks(graph, "base_model", brought),
        **_options(graph, "pretrain", brought),
    )
    def base_model(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """The pretrained base checkpoint: weight alpha of every actor."""
        return materialize(context, study, compute)

    return base_model


def _sft(graph: Graph, role: str) -> dg.AssetsDefinition:
    name, brought = f"{role}_sft", graph.study.sft[role].path is not None
    what = "Brought as it is" if brought else "Fine-tuned from base_model"

    @dg.asset(
        name=name,
        description=f"The {role} SFT checkpoint, weight {graph.study.sft[role].weight:g} in merged_sft. {what}.",
        deps=[] if brought else graph.deps("base_model", "sft_data"),
        check_specs=_import_checks(graph, name, brought),
        **_options(graph, "finetune", brought),
    )
    def sft_model(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        return materialize(context, study, compute)

    return sft_model


def _reward_model(graph: Graph) -> dg.AssetsDefinition:
    source = graph.study.reward
    brought = source.path is not None

    @dg.asset(
        deps=[] if brought else graph.deps(f"{source.init_from}_sft", "preference_data"),
        check_specs=_import_checks(graph, "reward_model", brought),
        **_options(graph, "reward", brought),
    )
    def reward_model(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """The reward model, which the critic may start from; trained on preference pairs (Bradley-Terry)."""
        return materialize(context, study, compute)

    return reward_model


def _critic_model(graph: Graph) -> dg.AssetsDefinition:
    @dg.asset(check_specs=_import_checks(graph, "critic_model", True), **_options(graph, "import_checkpoint", True))
    def critic_model(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """The brought checkpoint that the critic starts from."""
        return materialize(context, study, compute)

    return critic_model


def _options(graph: Graph, job: str, brought: bool) -> Options:
    return graph.options("checkpoints", "import_checkpoint" if brought else job, "pytorch")


def _import_checks(graph: Graph, asset: str, brought: bool) -> list[dg.AssetCheckSpec]:
    return graph.job_checks(asset, finite="No tensor holds NaN or infinity.") if brought else []
