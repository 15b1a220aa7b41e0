"""Command line of the benchmark: chooses, measures, and writes benchmarks/results/merge-DATE.json and .md."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bench_merge.contestants import BACKENDS, CONTESTANTS, ROOT
from benchmarks.bench_merge.load import measure_load
from benchmarks.bench_merge.measurement import BenchmarkError, file_system, memory
from benchmarks.bench_merge.parts import (
    ALPHAS,
    Workshop,
    check_outputs,
    fits_memory,
    measure_alphas,
    measure_merges,
    measure_rss,
)
from benchmarks.bench_merge.report import markdown

PARTS = ("warm", "cold", "alphas", "rss", "load")


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parsed(given)
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-merge-")))
        work.mkdir(parents=True, exist_ok=True)
        out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-merge-", dir=options.out)))
        workshop = Workshop(work, out, options.work is not None, lambda line: print(line, flush=True))
        record = described(options, given, workshop)
        measure_all(options, workshop, record)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"merge-{record['date'][:10]}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = markdown(record)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page, f"written to {path} and {path.with_suffix('.md').name}", sep="\n")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Options, with the sizes that follow from others."""
    parser = argparse.ArgumentParser(prog="bench-merge", description="Merging three checkpoints, side by side.")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each checkpoint, about; default 2")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each contestant; default 5")
    parser.add_argument(
        "--cold-repeats", type=int, help="runs with inputs on disk only; default: 3, or --repeats if less"
    )
    parser.add_argument("--only", type=chosen(CONTESTANTS), default=list(CONTESTANTS), help=",".join(CONTESTANTS))
    parser.add_argument("--parts", type=chosen(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument(
        "--alphas-gigabytes", type=float, help="of each of the nine; default: half, or what memory holds"
    )
    parser.add_argument("--rss-sizes", type=float, nargs="*", help="gigabytes; default: a quarter and twice the size")
    parser.add_argument("--work", type=Path, help="keeps the checkpoints here for the next time; default: temporary")
    parser.add_argument("--out", type=Path, default=Path("/dev/shm"), help="where outputs go; default /dev/shm")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    if options.gigabytes <= 0 or options.repeats < 1:
        parser.error("--gigabytes and --repeats must be positive")
    options.cold_repeats = options.cold_repeats or min(3, options.repeats)
    # Nine outputs on a tmpfs and three inputs in the page cache, and some room beside them.
    most = memory("MemTotal") / 1e9 / (len(ALPHAS) + 3) * 0.75
    options.alphas_gigabytes = options.alphas_gigabytes or min(options.gigabytes / 2, most)
    if options.rss_sizes is None:
        options.rss_sizes = [options.gigabytes / 4, options.gigabytes * 2]
    return options


def chosen(names: Sequence[str] | dict[str, Any]) -> Any:
    """A parser of comma-separated names, in the order of `names`."""

    def parse(text: str) -> list[str]:
        asked = set(text.split(","))
        if unknown := asked - set(names):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; expected of {', '.join(names)}")
        return [name for name in names if name in asked]

    return parse


def measure_all(options: argparse.Namespace, workshop: Workshop, record: dict[str, Any]) -> None:
    """Fill the record with the parts that were asked for and are possible."""
    say, parts = workshop.say, options.parts
    ours = [backend for backend in BACKENDS if backend in options.only]
    with workshop.place(options.gigabytes) as place:
        record["bytes"] = place.trio.shape.nbytes
        names = [name for name in options.only if fits_memory(name, record["bytes"])]
        record["notes"] += [f"{name}: needs more memory than there is" for name in options.only if name not in names]
        if "warm" in parts:
            record["checks"] = check_outputs(place, names, say)
            record["warm"] = measure_merges(place, names, options.repeats, say)
        if "cold" in parts and record["settings"]["work_file_system"] == "tmpfs":
            record["notes"].append("inputs on the disk: the work directory is in memory")
        elif "cold" in parts:
            record["cold"] = measure_merges(place, names, options.cold_repeats, say, cold=True)
        if "load" in parts and "kernel" in ours:
            record["load"] = measure_load(place, options.repeats, say)
    if "alphas" in parts and ours:
        with workshop.place(options.alphas_gigabytes) as place:
            record["alphas"] = measure_alphas(place, ours, options.repeats, say)
    if "rss" in parts and ours:
        record["rss"] = measure_rss(workshop, options.rss_sizes, ours)


def described(options: argparse.Namespace, given: Sequence[str], workshop: Workshop) -> dict[str, Any]:
    """What a reader needs to know beside the numbers."""
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks.bench_merge", *given]),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": processor[0].partition(":")[2].strip() if processor else platform.machine(),
            "memory": memory("MemTotal"),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "safetensors")},
        "settings": {
            "gigabytes": options.gigabytes,
            "repeats": options.repeats,
            "cold_repeats": options.cold_repeats,
            "work_file_system": file_system(workshop.work),
            "out_file_system": file_system(workshop.out),
        },
        "notes": [],
    }


def commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "bai_pipeline", "benchmarks", ":!benchmarks/results")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        sys.exit(f"bench-merge: {error}")
