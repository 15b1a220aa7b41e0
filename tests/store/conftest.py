from tests.store.object_storage import bucket, machines, s3_endpoint

__all__ = ["bucket", "machines", "s3_endpoint"]
