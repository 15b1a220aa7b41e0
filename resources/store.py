"""The store as a resource."""

from pathlib import Path

import dagster as dg

from bai_pipeline.store import Store


class StoreResource(dg.ConfigurableResource[None]):
    """Where every artefact lies."""

    root: str
    """A directory; every process of a deployment sees the same one."""

    def open(self) -> Store:
        """The store, with an absolute root: job processes get it by its path."""
        return Store(Path(self.root).resolve())
