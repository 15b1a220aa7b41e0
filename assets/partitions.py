"""Partitions of the graph: one per alpha, the weight on the base (equation 2 of the paper)."""

import dagster as dg

from bai_pipeline.study import Study


def alpha_partitions(study: Study) -> dg.StaticPartitionsDefinition:
    """The grid 0.0 … 1.0 and the study's own alphas; static, so that a fresh instance knows them at once."""
    return dg.StaticPartitionsDefinition(study.partition_keys)


def only(alphas: list[str]) -> dg.PartitionMapping:
    """A fan-in over these alphas: one that nobody asked for never blocks a table."""
    return dg.SpecificPartitionsPartitionMapping(alphas)
