"""`python -m tests.store.uploader LOCATION FILES`: publish an object of many files, and print its URI."""

import sys

from bai_pipeline.store import open_store


def main(location: str, files: int) -> None:
    store = open_store(location)
    with store.staging() as out:
        for number in range(files):
            (out / f"{number:03d}").write_bytes(bytes([number]) * 400_000)
        print(store.publish("table", out))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
