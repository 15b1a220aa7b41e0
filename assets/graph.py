"""What the stages need to declare their assets: which there are, and what all of them have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypedDict

import dagster as dg

from assets.partitions import alpha_partitions, only
from bai_pipeline.plan import CODE_VERSIONS, Plan
from bai_pipeline.store import Store
from bai_pipeline.study import Study

OWNERS = ["team:post-training"]
POOLS = {**dict.fromkeys(("pretrain", "finetune", "reward", "ppo"), "train"), "evaluate": "score"}
"""Kind of job -> the pool that limits how many of its kind run at a time; all others share `jobs`.

A pool for each kind of GPU: what trains may want larger ones than what is scored. Their limits are Dagster's (see
deploy/dagster.yaml): cores on `local`, GPUs divided by GPUs of a job on a cluster.
"""
PARTITIONED = ("bai_actor", "ppo_run", "training_dynamics", "benchmark_scores")
"""Assets with a partition for each alpha."""


def pool_of(job: str) -> str:
    """The pool of a kind of job."""
    return POOLS.get(job, "jobs")


class Options(TypedDict):
    """Arguments of `dg.asset` that all assets have."""

    group_name: str
    code_version: str
    kinds: set[str]
    owners: list[str]
    pool: str
    metadata: dict[str, str]


@dataclass(frozen=True)
class Graph:
    """The graph of one study: an asset exists only if the study needs it."""

    study: Study

    @cached_property
    def names(self) -> list[str]:
        """All assets, upstream first."""
        return Plan(self.study, Store(Path())).assets  # the names depend on the study alone

    @cached_property
    def alphas(self) -> dg.StaticPartitionsDefinition:
        return alpha_partitions(self.study)

    def deps(self, *names: str, fan_in: Mapping[str, list[str]] | None = None) -> list[dg.AssetDep]:
        """Those of the upstream assets that the study has; `fan_in` gives the alphas of the partitioned ones."""
        result = [dg.AssetDep(name) for name in names if name in self.names]
        return result + [dg.AssetDep(name, partition_mapping=only(keys)) for name, keys in (fan_in or {}).items()]

    def options(self, group: str, job: str, *kinds: str) -> Options:
        """For an asset of `group` that a `job` of this kind makes."""
        return Options(
            group_name=group,
            code_version=CODE_VERSIONS[job],
            kinds={"python", *kinds},
            owners=OWNERS,
            pool=pool_of(job),
            metadata={"job": job},
        )

    def job_checks(self, asset: str, **descriptions: str) -> list[dg.AssetCheckSpec]:
        """Checks that are made inside the job of an asset and reported by it."""
        partitions = self.alphas if asset in PARTITIONED else None
        return [
            dg.AssetCheckSpec(name, asset=asset, description=text, partitions_def=partitions)
            for name, text in descriptions.items()
        ]
