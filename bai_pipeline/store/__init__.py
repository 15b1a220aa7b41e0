"""Objects by digest, refs by study: where every artefact lives."""

from bai_pipeline.store.claims import Claim
from bai_pipeline.store.objects import ObjectTable, hash_file
from bai_pipeline.store.opening import open_store
from bai_pipeline.store.refs import Ref, RefKey
from bai_pipeline.store.store import Store

__all__ = ["Claim", "ObjectTable", "Ref", "RefKey", "Store", "hash_file", "open_store"]
