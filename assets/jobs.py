"""Jobs and the schedule: the sweep over the study's alphas, and the whole chain."""

from collections.abc import Iterator

import dagster as dg

from assets.graph import Graph

SWEEP = ("bai_actor", "ppo_run", "benchmark_scores")
WEEKLY = "0 3 * * 1"


def jobs_and_schedule(graph: Graph) -> dg.Definitions:
    """`alpha_sweep` and `whole_chain`, and a schedule that is off until someone turns it on."""
    sweep = dg.define_asset_job(
        "alpha_sweep",
        selection=dg.AssetSelection.assets(*SWEEP),
        description="One alpha: the actor, PPO from it, its scores. A backfill over the alphas is the paper's sweep.",
    )
    chain = dg.define_asset_job(
        "whole_chain",
        selection=dg.AssetSelection.all(),
        description="Data, checkpoints, baselines, one alpha, tables and report. Jobs that are done are not run again.",
    )

    @dg.schedule(name="weekly_sweep", job=sweep, cron_schedule=WEEKLY, execution_timezone="UTC")
    def weekly_sweep(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """The sweep over the study's alphas, one run each."""
        for alpha in graph.study.alphas:
            yield dg.RunRequest(
                run_key=f"{context.scheduled_execution_time:%Y-%m-%d}-{alpha}",
                partition_key=alpha,
                tags={"bai-pipeline/study": graph.study.name},
            )

    return dg.Definitions(jobs=[sweep, chain], schedules=[weekly_sweep])
