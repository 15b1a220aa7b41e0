"""`python -m tests.store.saver LOCATION IDENTITY`: a job that writes its state anew and saves it, for ever.

Each state is of one number: its files all hold it.
"""

import logging
import sys
from itertools import count

from bai_pipeline.store import open_store

FILES = 12


def main(location: str, identity: str) -> None:
    with open_store(location).claim(identity, logging.getLogger()) as claim:
        work = claim.directory / "work"
        work.mkdir(exist_ok=True)
        first = max((int(path.read_text()[:8]) for path in work.iterdir()), default=0)
        for number in count(first + 1):
            for file in range(FILES):
                (work / str(file)).write_text(f"{number:08d} {file} " + "x" * 100_000)
            claim.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
