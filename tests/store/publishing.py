"""Publishing small objects, as tests of every kind of store do."""

from bai_pipeline.store import Store


def publish(store: Store, **files: str) -> str:
    """The URI of an object with these files; a double underscore in a name is a slash."""
    with store.staging() as directory:
        for name, text in files.items():
            path = directory / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return store.publish("table", directory)
