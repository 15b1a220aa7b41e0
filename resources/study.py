"""The study as a resource."""

import dagster as dg

from bai_pipeline.plan import Plan
from bai_pipeline.study import load_study
from resources.store import StoreResource


class StudyResource(dg.ConfigurableResource[None]):
    """A study against a store: what assets ask for the jobs to run."""

    source: str
    """Name of a preset or path of a study file."""
    store: StoreResource

    def plan(self) -> Plan:
        """The plan as of now; the study file is read again for every asset, so leave it alone while a run is under way.

        Raises:
            StudyError: the study file is not valid.
        """
        return Plan(load_study(self.source), self.store.open())
