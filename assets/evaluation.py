"""Stage 6: benchmark scores, the paper's two tables with our numbers, figures of the dynamics, the report."""

import dagster as dg

from assets.execution import Materialized, materialize
from assets.graph import Graph
from assets.inline import inline_figures, inline_table, link_page
from resources import ComputeResource, StudyResource

_CONTAMINATION_CHECKS = {
    "benchmarks_absent_from_training": "No question of a benchmark shares 13 words in a row with the training data.",
}


def evaluation_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    return [*_scores(graph), *_tables(graph), *_pages(graph)]


def _scores(graph: Graph) -> list[dg.AssetsDefinition]:
    models = ("base_model", *(f"{role}_sft" for role in graph.study.sft), "paradigm_1_run", "paradigm_3_run")

    @dg.asset(
        partitions_def=graph.alphas,
        deps=graph.deps("ppo_run", "benchmark_data"),
        **graph.options("evaluation", "evaluate", "parquet"),
    )
    def benchmark_scores(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Scores of the policy that PPO made of bai_actor, with standard errors and every sample."""
        return materialize(context, study, compute)

    @dg.asset(deps=graph.deps("benchmark_data", *models), **graph.options("evaluation", "evaluate", "parquet"))
    def paradigm_scores(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Scores of the base, the SFT models and the policies of the baselines."""
        return materialize(context, study, compute)

    return [benchmark_scores, paradigm_scores]


def _tables(graph: Graph) -> list[dg.AssetsDefinition]:
    study_alphas, headline = list(graph.study.alphas), [graph.study.headline_alpha]

    @dg.asset(
        deps=graph.deps("paradigm_scores", fan_in={"benchmark_scores": headline}),
        **graph.options("evaluation", "paradigm_table", "table"),
    )
    def paradigm_table(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """The paradigms against BAI at the headline alpha, beside the paper's Table 1; what was not run is a hole."""
        return materialize(context, study, compute, show=inline_table)

    @dg.asset(
        deps=graph.deps(fan_in={"benchmark_scores": study_alphas}),
        **graph.options("evaluation", "ratio_table", "table"),
    )
    def ratio_table(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """Scores over the study's alphas, beside the paper's Table 2; an alpha that was not run is a hole."""
        return materialize(context, study, compute, show=inline_table)

    @dg.asset(
        deps=graph.deps("paradigm_scores", fan_in={"benchmark_scores": headline}),
        **graph.options("evaluation", "case_studies", "table"),
    )
    def case_studies(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """The same questions answered by every paradigm, side by side, as in the paper's Tables 3 and 4."""
        return materialize(context, study, compute, show=inline_table)

    @dg.asset(
        deps=graph.deps("benchmark_data", "sft_data", "preference_data", "prompts"),
        check_specs=graph.job_checks("contamination", **_CONTAMINATION_CHECKS),
        **graph.options("evaluation", "contamination", "table"),
    )
    def contamination(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """Benchmark questions whose n-grams stand in the training data."""
        return materialize(context, study, compute, show=inline_table)

    return [contamination, paradigm_table, ratio_table, case_studies]


def _pages(graph: Graph) -> list[dg.AssetsDefinition]:
    runs = {"ppo_run": list(graph.study.alphas)}
    diagnosed = {**runs, "training_dynamics": list(graph.study.alphas)}
    shown = ("paradigm_table", "ratio_table", "ratio_recommendation", "case_studies", "contamination", "merge_weights")

    @dg.asset(
        deps=graph.deps("paradigm_1_run", "paradigm_3_run", fan_in=runs),
        **graph.options("evaluation", "figures", "matplotlib"),
    )
    def dynamics_figures(
        context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource
    ) -> Materialized:
        """The paper's Figures 2 to 7 of this study's runs and some of our own; the numbers as CSV beside each."""
        return materialize(context, study, compute, show=inline_figures)

    @dg.asset(
        deps=graph.deps(*shown, "paradigm_1_run", "paradigm_3_run", "paradigm_dynamics", fan_in=diagnosed),
        **graph.options("evaluation", "report", "html"),
    )
    def report(context: dg.AssetExecutionContext, study: StudyResource, compute: ComputeResource) -> Materialized:
        """One page with everything: what happened, verdicts, figures, tables, advice, lineage and costs."""
        return materialize(context, study, compute, show=link_page)

    return [dynamics_figures, report]
