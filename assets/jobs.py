"""Jobs and the schedule: the sweep over the study's alphas, by halving or whole, and the whole chain."""

from collections.abc import Iterator

import dagster as dg

from assets.graph import Graph
from assets.halving import halving_job
from bai_pipeline.errors import StudyError

SWEEP = ("bai_actor", "ppo_run", "training_dynamics", "benchmark_scores")
NIGHTLY = "0 3 * * *"
"""When the sweep is due unless `BAI_SWEEP_CRON` says otherwise; UTC."""


def jobs_and_schedule(graph: Graph, cron: str = NIGHTLY) -> dg.Definitions:
    """`alpha_sweep` and `whole_chain`, and a schedule that is off until someone turns it on."""
    sweep = dg.define_asset_job(
        "alpha_sweep",
        selection=dg.AssetSelection.assets(*SWEEP),
        description=(
            "One alpha: the actor, PPO from it, its diagnosis and its scores. A backfill over the alphas is the "
            "paper's sweep."
        ),
    )
    chain = dg.define_asset_job(
        "whole_chain",
        selection=dg.AssetSelection.all(),
        description="Data, checkpoints, baselines, one alpha, tables and report. Jobs that are done are not run again.",
    )

    @dg.schedule(name="nightly_sweep", job=sweep, cron_schedule=cron, execution_timezone="UTC")
    def nightly_sweep(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """The sweep over the study's alphas, one run each; a night on which nothing is stale costs minutes."""
        for alpha in graph.study.alphas:
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time:%Y-%m-%dT%H:%M}-{alpha}",
                partition_key=alpha,
                tags={"bai-pipeline/study": graph.study.name},
            )

    return dg.Definitions(jobs=[sweep, chain, *_halving(graph)], schedules=[nightly_sweep])


def _halving(graph: Graph) -> list[dg.JobDefinition]:
    """`successive_halving`, unless the study has too few alphas or steps for it to save anything."""
    try:
        return [halving_job(graph)]
    except StudyError:
        return []
