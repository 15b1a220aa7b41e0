"""Which run waits for which pod or TrainJob: tags of the runs, so that Dagster says which of them are still active."""

from typing import NamedTuple

import dagster as dg

TAG_PREFIX = "bai-pipeline.workload/"
"""A run has a tag for every job that it has (or had) in the cluster."""
_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


class Attachment(NamedTuple):
    """A run's hold on a workload."""

    job: str
    resource: str
    name: str

    @property
    def tag(self) -> tuple[str, str]:
        return TAG_PREFIX + self.job, f"{self.resource}.{self.name}"


def note_attachment(instance: dg.DagsterInstance, run_id: str, attachment: Attachment) -> None:
    """Say that a run waits for a workload; before that is created, so that none is ever without one who knows it."""
    instance.add_run_tags(run_id, dict([attachment.tag]))


def attachments_of(instance: dg.DagsterInstance, run_id: str) -> list[Attachment]:
    """The workloads that a run has waited for, the last one of each job."""
    run = instance.get_run_by_id(run_id)
    tags = {} if run is None else run.tags
    return [
        Attachment(key.removeprefix(TAG_PREFIX), *value.split(".", 1))
        for key, value in tags.items()
        if key.startswith(TAG_PREFIX)
    ]


def attached_elsewhere(instance: dg.DagsterInstance, attachment: Attachment, run_id: str) -> bool:
    """Whether another active run waits for a workload."""
    runs = instance.get_runs(dg.RunsFilter(tags=dict([attachment.tag]), statuses=_ACTIVE))
    return any(run.run_id != run_id for run in runs)
