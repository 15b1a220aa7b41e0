"""Who merges: commands, each a whole process that leaves a directory behind."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bai_pipeline.checkpoints import ITEM_SIZES
from bai_pipeline.merging.buffers import CHUNK_ELEMENTS
from benchmarks.bench_merge.checkpoints import Trio
from benchmarks.bench_merge.measurement import PROGRAMS, PYTHON, BenchmarkError, Cost, drop, measure, warm

ROOT: Final = Path(__file__).parents[2]
MERGEKIT: Final = ROOT / ".peers" / "mergekit" / "bin" / "mergekit-yaml"
BAI: Final = Path(sys.executable).with_name("bai")
ALPHA: Final = 0.3
WEIGHTS: Final = (0.3, 0.35, 0.35)
"""alpha, and half of the rest for each SFT model."""
FLOOR_CHUNK: Final = 64 * 1024
"""Bytes, the best of those tried. 16 KiB cost 1.6 times as much CPU in calls. Buffers of 128 KiB and more, which malloc
maps a few bytes into a page, can cost twice as much: there the system copies at a quarter of the speed (design 005).
"""
PLAIN_CHUNK: Final = 2 * 1024 * 1024
"""Bytes: what a plain program would take. The floor that it reaches is the other end of what can be called one."""
Backend = Literal["kernel", "numpy", "torch"]
BACKENDS: Final[tuple[Backend, ...]] = ("kernel", "numpy", "torch")


@dataclass(frozen=True)
class Place:
    """Where a benchmark works: the checkpoints, the files that commands need beside them, and the outputs."""

    trio: Trio
    work: Path
    out: Path

    @property
    def cache(self) -> Path:
        """Of `bai merge`: what it remembers of earlier merges."""
        return self.work / "digests.json"


def floor(place: Place, out: Path) -> list[str | Path]:
    return [*PYTHON, PROGRAMS / "floor.py", str(FLOOR_CHUNK), place.trio.base, out, *place.trio.paths]


def plain_floor(place: Place, out: Path) -> list[str | Path]:
    return [*PYTHON, PROGRAMS / "floor.py", str(PLAIN_CHUNK), place.trio.base, out, *place.trio.paths]


def write_floor(place: Place, outs: Sequence[Path]) -> list[str | Path]:
    """Only the writes, in the chunks in which `bai merge` writes: files of one output's sizes into each directory."""
    chunk = CHUNK_ELEMENTS * ITEM_SIZES["BF16"]
    return [*PYTHON, PROGRAMS / "floor.py", str(chunk), place.trio.base, ",".join(map(str, outs))]


def copy(place: Place, out: Path) -> list[str | Path]:
    return ["cp", "-r", "--reflink=never", place.trio.base, out]


def bai(place: Place, out: Path, backend: Backend, alphas: Sequence[float] = (ALPHA,)) -> list[str | Path]:
    """`bai merge`: one directory, or with several alphas one each below `out`."""
    return [*recipe_command(place, alphas), f"--out={out}", f"--backend={backend}", f"--cache={place.cache}"]


def recipe_command(place: Place, alphas: Sequence[float] = (ALPHA,)) -> list[str | Path]:
    """The part of `bai merge` that says what is merged."""
    sft = [f"--sft={path}=0.5" for path in (place.trio.instruct, place.trio.reasoning)]
    return [BAI, "merge", f"--base={place.trio.base}", *sft, *(f"--alpha={alpha}" for alpha in alphas)]


def mergekit(place: Place, out: Path, *switches: str) -> list[str | Path]:
    """`linear`, in the inputs' dtype, as its documentation shows it.

    Of its switches, --async-write saves a fifth of the wall time here; --num-threads, --write-threads and
    --out-shard-size change nothing, the others are for GPUs.
    """
    if not MERGEKIT.is_file():
        raise BenchmarkError(f"{MERGEKIT} is not there: `make {MERGEKIT.parents[1].relative_to(ROOT)}/.installed`")
    weighted = zip(place.trio.paths, WEIGHTS, strict=True)
    models = [{"model": str(path), "parameters": {"weight": weight}} for path, weight in weighted]
    config = place.work / "mergekit.yaml"
    config.write_text(json.dumps({"merge_method": "linear", "dtype": "bfloat16", "models": models}))  # JSON is YAML
    return [MERGEKIT, config, out, *switches]


def transformers(place: Place, out: Path) -> list[str | Path]:
    weighted = zip(WEIGHTS, place.trio.paths, strict=True)
    return [sys.executable, PROGRAMS / "transformers_merge.py", out, *(f"{weight}={path}" for weight, path in weighted)]


CONTESTANTS: Final[dict[str, Callable[[Place, Path], list[str | Path]]]] = {
    "floor": floor,
    "plain floor": plain_floor,
    "cp": copy,
    "kernel": lambda place, out: bai(place, out, "kernel"),
    "numpy": lambda place, out: bai(place, out, "numpy"),
    "torch": lambda place, out: bai(place, out, "torch"),
    "mergekit": mergekit,
    "mergekit switches": lambda place, out: mergekit(place, out, "--lazy-unpickle", "--async-write"),
    "transformers": transformers,
}

TITLES: Final = {
    "floor": "floor: read three, write one",
    "plain floor": "the same with buffers of 2 MiB",
    "cp": "cp of one",
    "kernel": "bai merge, kernel",
    "numpy": "bai merge, numpy (no kernel built)",
    "torch": "bai merge, torch",
    "mergekit": "mergekit 0.1.5, linear",
    "mergekit switches": "mergekit, its fastest switches",
    "transformers": "transformers script",
}


def run(place: Place, name: str, command: list[str | Path], out: Path, *, cold: bool = False) -> Cost:
    """Run a command that writes `out`, which is removed first, on inputs that are all in the page cache or all out."""
    remove(out)
    place.cache.unlink(missing_ok=True)
    (drop if cold else warm)(place.trio.files)
    return measure(command, place.work / f"{name}.log")


def remove(out: Path) -> None:
    if out.exists():
        shutil.rmtree(out)
