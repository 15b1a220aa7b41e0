"""Whole processes, measured: wall, CPU and peak memory, with the inputs in the page cache or out of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

PROGRAMS: Final = Path(__file__).with_name("programs")
PYTHON: Final = (sys.executable, "-I", "-S")
"""For programs that import nothing but the standard library."""

_LOG_TAIL = 2000
_WARMING_BYTES = 16 * 1024 * 1024


class BenchmarkError(RuntimeError):
    """A measurement cannot be taken; the message says what failed and how to go on."""


@dataclass(frozen=True)
class Cost:
    """Of one process and those that it waited for: seconds and bytes."""

    wall: float
    user: float
    system: float
    peak_rss: int
    """Of the largest process; about 9 MB, which the measuring process has, is the least that can be seen."""
    disk_read: int
    """Bytes that came from the disk: about 0 when the page cache is warm."""
    load_average: float
    """Of the machine, over the minute before."""

    @property
    def cpu(self) -> float:
        return self.user + self.system


@dataclass(frozen=True)
class Median:
    """Medians of several runs, each of its own."""

    wall: float
    cpu: float
    peak_rss: float

    @classmethod
    def of(cls, costs: Sequence[Cost]) -> "Median":
        return cls(*(median(getattr(cost, name) for cost in costs) for name in ("wall", "cpu", "peak_rss")))


def environment() -> dict[str, str]:
    """What every contestant gets: offline, and its own choice of threads (the Makefile's OMP_NUM_THREADS=1 is for
    tests)."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def measure(command: Sequence[str | Path], log: Path, variables: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end; its output goes into the file `log`.

    Raises:
        BenchmarkError: the command failed.
    """
    load = os.getloadavg()[0]
    launch = [*PYTHON, str(PROGRAMS / "launch.py"), str(log), *map(str, command)]
    done = subprocess.run(launch, env={**environment(), **(variables or {})}, stdout=subprocess.PIPE, check=True)
    cost = json.loads(done.stdout)
    if code := cost.pop("exit_code"):
        tail = log.read_text(errors="replace")[-_LOG_TAIL:]
        raise BenchmarkError(f"{' '.join(map(str, command))}\nended with {code}; the end of {log}:\n{tail}")
    return Cost(**cost, load_average=load)


def interleave(
    runs: Mapping[str, Callable[[], Cost]], repeats: int, say: Callable[[str], None]
) -> dict[str, list[Cost]]:
    """Each contestant once a round, so that what disturbs the machine disturbs all."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for number in range(1, repeats + 1):
        for name, run in runs.items():
            cost = run()
            costs[name].append(cost)
            say(f"{number}/{repeats} {name}: {cost.wall:.2f} s, CPU {cost.cpu:.2f} s, {cost.peak_rss / 1e6:.0f} MB")
    return costs


def warm(files: Iterable[Path]) -> None:
    """Read the files, so that they are in the page cache."""
    buffer = bytearray(_WARMING_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def drop(files: Iterable[Path]) -> None:
    """Take the files out of the page cache; only what has been written to the disk can be taken out."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def file_system(path: Path) -> str:
    """The type of the file system that holds the path, as /proc/mounts names it."""
    found = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        found[Path(mount)] = kind
    resolved = path.resolve()
    return next(found[parent] for parent in (resolved, *resolved.parents) if parent in found)


def memory(field: str) -> int:
    """A field of /proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
