"""Which kind of store a location means."""

from pathlib import Path

from bai_pipeline.errors import StoreError
from bai_pipeline.store.store import Store

SCHEMES = ("s3", "gs")


def open_store(location: str | Path) -> Store:
    """The store at a directory, or below `s3://BUCKET[/PREFIX]` or `gs://BUCKET[/PREFIX]`.

    Object storage is asked nothing yet; its client is imported only for it.

    Raises:
        StoreError: another scheme, or no bucket.
    """
    text = str(location)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Store(Path(text).resolve())
    if scheme not in SCHEMES or not rest.split("/")[0]:
        raise StoreError(f"expected a directory, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX as the store, got {text!r}")
    from bai_pipeline.store.remote import open_remote_store

    return open_remote_store(text)
