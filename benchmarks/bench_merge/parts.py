"""The parts of the benchmark; each returns its raw numbers."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_merge.checkpoints import shape_for, write_trio
from benchmarks.bench_merge.checks import closeness, same_files
from benchmarks.bench_merge.contestants import BACKENDS, CONTESTANTS, WEIGHTS, Place, bai, remove, run, write_floor
from benchmarks.bench_merge.measurement import BenchmarkError, Cost, interleave, memory

ALPHAS: Final = tuple(n / 10 for n in range(1, 10))
COLD: Final = ("floor", "cp", "kernel", "mergekit")
TRANSFORMERS_MEMORY: Final = 10
"""Sizes of a checkpoint: three models and float32 sums in memory, and the inputs and two outputs in the page cache."""

Say = Callable[[str], None]
Raw = dict[str, Any]


@dataclass(frozen=True)
class Workshop:
    """Where to work, and whether what was made there stays for the next time."""

    work: Path
    out: Path
    keep: bool
    say: Say

    @contextmanager
    def place(self, gigabytes: float) -> Iterator[Place]:
        """Checkpoints of about that size."""
        shape, work = shape_for(gigabytes), self.work / f"{gigabytes:g}GB"
        self.say(f"three checkpoints of {shape.nbytes / 1e9:.2f} GB in {work}")
        try:
            yield Place(write_trio(work, shape), work, self.out)
        finally:
            if not self.keep:
                remove(work)


def check_outputs(place: Place, names: Collection[str], say: Say) -> Raw:
    """One uncounted run each, after which every file has been read or compiled that only needs it once; the
    backends must have written the same bytes, and the others what bf16 rounding allows.

    Raises:
        BenchmarkError: they have not.
    """
    checks: Raw = {}
    outs = {name: place.out / name for name in names}
    for name, out in outs.items():
        cost = run(place, name, CONTESTANTS[name](place, out), out)
        say(f"uncounted, {name}: {cost.wall:.2f} s")
        if name in ("numpy", "torch") and "kernel" in outs:
            checks["backends_equal"] = same_files(outs["kernel"], out)
            if not checks["backends_equal"]:
                raise BenchmarkError(f"the backends' outputs differ: {outs['kernel']} and {out}")
        if name not in ("kernel", "mergekit", "transformers"):
            remove(out)
    others = {name: out for name, out in outs.items() if name in ("mergekit", "transformers")}
    if "kernel" in outs:
        checks["closeness"] = closeness(place.trio.paths, WEIGHTS, outs["kernel"], others)
        say(f"closeness: {checks['closeness']}")
    for out in outs.values():
        remove(out)
    far = [name for name, shares in checks.get("closeness", {}).items() if shares["within_rounding"] < 1]
    if far:
        raise BenchmarkError(f"{', '.join(far)}: further from ours than bf16 rounding explains")
    return checks


def measure_merges(place: Place, names: Collection[str], repeats: int, say: Say, *, cold: bool = False) -> Raw:
    """One merge each, on inputs in the page cache or, of the contestants in COLD, on inputs that are only on the disk.
    Programs and libraries stay in the page cache."""

    def one(name: str) -> Cost:
        out = place.out / name
        cost = run(place, name, CONTESTANTS[name](place, out), out, cold=cold)
        remove(out)
        return cost

    chosen = [name for name in names if not cold or name in COLD]
    return _raw(interleave({name: partial(one, name) for name in chosen}, repeats, say))


def measure_alphas(place: Place, names: Collection[str], repeats: int, say: Say) -> Raw:
    """Nine alphas in one pass against nine merges, by backend; and the CPU of a program that only writes the same files
    in chunks of the same size, from two threads: of nine in turn, or of one."""
    nine, single = place.out / "nine", place.out / "single"
    writes: dict[str, list[float]] = {"nine": [], "one": []}

    def write(kind: str, outs: Sequence[Path], out: Path) -> Cost:
        cost = run(place, f"write-{kind}", write_floor(place, outs), out)
        writes[kind].append(float((place.work / f"write-{kind}.log").read_text()))
        remove(out)
        return cost

    def merge(name: str, command: list[str | Path], out: Path) -> Cost:
        cost = run(place, name, command, out)
        remove(out)
        return cost

    runs = {
        "write nine": partial(write, "nine", [nine / str(alpha) for alpha in ALPHAS], nine),
        "write one": partial(write, "one", [single], single),
    }
    for backend in (backend for backend in BACKENDS if backend in names):
        runs[f"{backend} nine"] = partial(merge, f"{backend}-nine", bai(place, nine, backend, ALPHAS), nine)
        for alpha in ALPHAS:
            name = f"{backend} {alpha}"
            runs[name] = partial(merge, f"{backend}-{alpha}", bai(place, single, backend, [alpha]), single)
    costs = _raw(interleave(runs, repeats, say))
    return {"bytes": place.trio.shape.nbytes, "runs": costs, "write_cpu": writes}


def measure_rss(workshop: Workshop, sizes: Sequence[float], names: Collection[str]) -> list[Raw]:
    """Peak memory of the backends at several sizes, one run each."""
    found = []
    for gigabytes in sizes:
        with workshop.place(gigabytes) as place:
            for backend in (backend for backend in BACKENDS if backend in names):
                out = place.out / backend
                cost = run(place, backend, bai(place, out, backend), out)
                remove(out)
                found.append({"backend": backend, "bytes": place.trio.shape.nbytes, "peak_rss": cost.peak_rss})
                workshop.say(f"{backend}, {gigabytes:g} GB: {cost.peak_rss / 1e6:.0f} MB")
    return found


def fits_memory(name: str, nbytes: int) -> bool:
    """Whether this machine can run a contestant on checkpoints of that size."""
    return name != "transformers" or TRANSFORMERS_MEMORY * nbytes < memory("MemTotal")


def _raw(costs: dict[str, list[Cost]]) -> dict[str, list[Raw]]:
    return {name: [vars(cost) for cost in runs] for name, runs in costs.items()}
