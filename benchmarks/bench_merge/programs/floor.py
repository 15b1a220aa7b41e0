"""The least that a merge has to do: read all bytes of the checkpoints and write those of one. No arithmetic.

Arguments: bytes of a chunk, LIKE, OUT[,OUT…] and READ…. Each file of LIKE is written, under its name and in its size,
into every OUT, chunk by chunk (`pwrite`); the same range is read (`pread`) before from the file of that name in every
READ. Without READ the writes alone remain, from a buffer for each OUT. Prints the CPU seconds of all this, without the
interpreter's start.
"""

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path

THREADS = 2
RANGE_BYTES = 4 * 1024 * 1024
"""What one thread copies, chunk by chunk, before it takes the next: long enough for the kernel to read ahead."""

Job = tuple[list[int], list[int], int, int]
"""Descriptors to read from and to write to, the first position, and that after the last."""


def main() -> None:
    chunk, like, outs, reads = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:]
    start = time.process_time()
    waiting: deque[Job] = deque()
    for file in sorted(like.glob("*.safetensors")):
        size = file.stat().st_size
        sources = [os.open(f"{directory}/{file.name}", os.O_RDONLY) for directory in reads]
        if any(os.fstat(source).st_size != size for source in sources):
            sys.exit(f"{file.name} has more than one size")
        targets = [created(Path(directory), file.name, size) for directory in outs]
        waiting.extend((sources, targets, at, min(at + RANGE_BYTES, size)) for at in range(0, size, RANGE_BYTES))
    threads = [threading.Thread(target=copy, args=(waiting, chunk, len(reads) or len(outs))) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(time.process_time() - start)


def created(directory: Path, name: str, size: int) -> int:
    """A file of that size, open for writing."""
    directory.mkdir(parents=True, exist_ok=True)
    target = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.truncate(target, size)
    return target


def copy(waiting: deque[Job], chunk: int, number: int) -> None:
    """Do the waiting jobs until there are none."""
    buffers = [memoryview(bytearray(b"\1") * chunk) for _ in range(number)]
    while True:
        try:
            sources, targets, start, stop = waiting.popleft()
        except IndexError:
            return
        for at in range(start, stop, chunk):
            count = min(chunk, stop - at)
            for source, buffer in zip(sources, buffers, strict=False):
                os.preadv(source, [buffer[:count]], at)
            for target, buffer in zip(targets, buffers, strict=False):
                os.pwrite(target, buffer[:count], at)


if __name__ == "__main__":
    main()
