"""`python -m tests.store.uploader LOCATION FILES`: publish an object of many files, and print its URI."""

import sys

from bai_pipeline.store import open_store

store = open_store(sys.argv[1])
with store.staging() as out:
    for number in range(int(sys.argv[2])):
        (out / f"{number:03d}").write_bytes(bytes([number]) * 400_000)
    print(store.publish("table", out))
