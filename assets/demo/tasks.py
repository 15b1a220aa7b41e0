"""What the demo runs: a Dagster run for what is upstream, one for the baselines, one per alpha, one for the tables."""

from collections.abc import Mapping
from dataclasses import dataclass

from bai_pipeline.plan import Plan, Status
from bai_pipeline.store import RefKey

PER_ALPHA = ("bai_actor", "ppo_run", "training_dynamics", "benchmark_scores")
BASELINES = ("paradigm_1_run", "paradigm_3_run", "paradigm_dynamics", "paradigm_scores")
TABLES = ("ratio_table", "paradigm_table", "case_studies", "ratio_recommendation", "dynamics_figures", "report")
WAVES = ("models", "runs and scores", "tables and report")


@dataclass(frozen=True)
class Task:
    """One Dagster run."""

    name: str
    assets: tuple[str, ...]
    alpha: str | None
    keys: tuple[RefKey, ...]
    """The refs that the run is to make fresh, upstream first."""


def waves(plan: Plan) -> list[list[Task]]:
    """The tasks that are due now, in three waves; tasks of a wave can run at the same time.

    What a wave makes can leave later tasks nothing to do: ask again after each.
    """
    states = plan.status()
    upstream = [name for name in plan.assets if name not in (*PER_ALPHA, *BASELINES, *TABLES)]
    baselines = [name for name in BASELINES if name in plan.assets]
    alphas = [_due(plan, states, f"alpha {alpha}", PER_ALPHA, alpha) for alpha in plan.study.alphas]
    wanted = [
        [_due(plan, states, "models", upstream)],
        [_due(plan, states, "baselines", baselines), *alphas],
        [_due(plan, states, "tables", TABLES)],
    ]
    return [[task for task in wave if task is not None] for wave in wanted]


def _due(
    plan: Plan,
    states: Mapping[RefKey, Status],
    name: str,
    assets: list[str] | tuple[str, ...],
    alpha: str | None = None,
) -> Task | None:
    """The task for those of the assets that are not fresh; None if all are."""
    stale = {asset: [k for k in plan.keys(asset, alpha) if states[k].state in ("stale", "absent")] for asset in assets}
    due = tuple(asset for asset, keys in stale.items() if keys)
    keys = tuple(key for asset in due for key in stale[asset])
    return Task(name, due, alpha, keys) if due else None
