"""The composition root: the graph of the study that `BAI_STUDY` names, on the compute that `BAI_COMPUTE` names.

Environment: `BAI_STUDY` (preset or study file, default micro), `BAI_STORE` (root of the store, default ./store),
`BAI_COMPUTE` (compute file, default local), `BAI_SWEEP_CRON` (when the sweep is due, once its schedule is on) and
`BAI_GPU_HOUR_PRICE` (for the tags of runs). Nothing heavy is imported here: every Dagster process loads this module.
"""

import os
import warnings
from pathlib import Path

import dagster as dg

from assets.checkpoints import checkpoint_assets
from assets.checks import asset_checks
from assets.costs import cost_sensors, gpus_of_steps, price_of
from assets.data import data_assets
from assets.dynamics import dynamics_assets
from assets.ended_runs import ended_run_sensors
from assets.evaluation import evaluation_assets
from assets.graph import Graph
from assets.initialization import initialization_assets
from assets.jobs import NIGHTLY, jobs_and_schedule
from assets.rlhf import rlhf_assets
from bai_pipeline.study import load_study
from resources import Compute, StoreResource, StudyResource, build_compute, load_compute

STAGES = (data_assets, checkpoint_assets, initialization_assets, rlhf_assets, dynamics_assets, evaluation_assets)


def build_definitions(
    study: str, store: str, compute: Compute, cron: str = NIGHTLY, gpu_hour_price: float | None = None
) -> dg.Definitions:
    """The definitions of one study.

    Args:
        study: preset or path of a study file.
        store: root of the store.
        cron: when the sweep is due.
        gpu_hour_price: of one GPU, in whatever currency.
    """
    graph = Graph(load_study(study))
    with warnings.catch_warnings():
        # Partitions of checks are in preview; without them the check of alpha 0.9 would hide that of 0.1.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        made = [asset for stage in STAGES for asset in stage(graph)]
        checks = asset_checks(graph)
    assets = [asset for asset in made if asset.key.path[-1] in graph.names]
    definitions = dg.Definitions(
        assets=assets,
        asset_checks=checks,
        sensors=[*ended_run_sensors(compute), *cost_sensors(gpus_of_steps(assets, compute.settings), gpu_hour_price)],
        resources={"study": StudyResource(source=study, store=StoreResource(root=store)), "compute": compute},
        # The heavy work is in job processes; a process per step would only cost its start.
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(definitions, jobs_and_schedule(graph, cron))


def _from_environment() -> dg.Definitions:
    file = os.environ.get("BAI_COMPUTE")
    compute = build_compute(load_compute(Path(file) if file else None))
    return build_definitions(
        os.environ.get("BAI_STUDY") or "micro",
        os.environ.get("BAI_STORE") or "store",
        compute,
        cron=os.environ.get("BAI_SWEEP_CRON") or NIGHTLY,
        gpu_hour_price=price_of(os.environ.get("BAI_GPU_HOUR_PRICE", "")),
    )


defs = _from_environment()
