"""The store as a resource."""

import dagster as dg

from bai_pipeline.store import Store, open_store


class StoreResource(dg.ConfigurableResource[None]):
    """Where every artefact lies."""

    root: str
    """A directory, which every process of a deployment sees, or s3://BUCKET/PREFIX, or gs://BUCKET/PREFIX."""

    def open(self) -> Store:
        """The store, at an absolute place: job processes get it by its location."""
        return open_store(self.root)
