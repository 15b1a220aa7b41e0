"""Command line of the benchmark: chooses, measures, and writes benchmarks/results/ppo-DATE.json and .md."""

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.bench_merge.__main__ import chosen, commit
from benchmarks.bench_merge.measurement import BenchmarkError, memory
from benchmarks.bench_ppo.contestants import ROOT
from benchmarks.bench_ppo.parts import (
    SCENARIOS,
    Workshop,
    choices,
    measure_pilot,
    measure_ranks,
    measure_sampling,
    measure_training,
)
from benchmarks.bench_ppo.report import markdown
from benchmarks.bench_ppo.task import Task

PARTS = ("pilot", "train", "sampling", "ranks")


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parsed(given)
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ppo-")))
        record = described(options, given)
        measure_all(options, Workshop(work, options.repeats, lambda line: print(line, flush=True)), record)
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"ppo-{record['date'][:10]}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = markdown(record)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page, f"written to {path} and {path.with_suffix('.md').name}", sep="\n")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-ppo", description="PPO, ours and TRL's, side by side.")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each contestant; default 5")
    parser.add_argument("--steps", type=int, default=3, help="steps that a process counts; default 3")
    parser.add_argument("--scenarios", type=chosen(SCENARIOS), default=list(SCENARIOS), help=",".join(SCENARIOS))
    parser.add_argument("--parts", type=chosen(PARTS), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--work", type=Path, help="keeps models and logs here; default: temporary")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.steps < 1:
        parser.error("--repeats and --steps must be positive")
    return options


def measure_all(options: argparse.Namespace, workshop: Workshop, record: dict[str, Any]) -> None:
    """Fill the record with the parts that were asked for and are possible."""
    parts, scenarios, notes = options.parts, options.scenarios, record["notes"]
    steps = {"steps": options.steps}
    if "pilot" in parts:
        record["pilot"] = measure_pilot(workshop, scenarios)
    if "train" in parts:
        record["trl"] = choices(record.get("pilot", {}), scenarios, record["settings"]["batch_size"])
        record["train"] = measure_training(workshop, record["trl"], **steps)
        record["versions"] |= next(iter(record["train"].values()))["trl"][0]["versions"]
    if "sampling" in parts:
        record["sampling"] = measure_sampling(workshop, scenarios, notes, **steps)
    if "ranks" in parts:
        record["ranks"] = measure_ranks(workshop, scenarios[0], notes, **steps)


def described(options: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """What a reader needs to know beside the numbers."""
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    task = asdict(Task("", 0.0, steps=options.steps))
    fixed = ("prompt_tokens", "new_tokens", "batch_size", "mini_batch_size", "warmup", "steps")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": shlex.join(["python", "-m", "benchmarks.bench_ppo", *given]),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "cpu": processor[0].partition(":")[2].strip() if processor else platform.machine(),
            "memory": memory("MemTotal"),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
        "settings": {name: task[name] for name in fixed} | {"repeats": options.repeats},
        "notes": [],
    }


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        sys.exit(f"bench-ppo: {error}")
