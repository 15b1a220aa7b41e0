"""Loading a model by merging it on the way, beside loading the checkpoint that the merge has written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench_merge.contestants import Place, bai, recipe_command, remove, run
from benchmarks.bench_merge.measurement import PROGRAMS, BenchmarkError, measure, warm


def measure_load(place: Place, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of `load_model` in a fresh process each, imports done, all files in the page cache.

    The written checkpoint lies on the file system of the inputs, so that neither has the faster one.

    Returns:
        by kind ("written", "recipe") and run: `loaded` and `touched` (see programs/load_once.py), and the process's
        cost; and what writing the checkpoint cost.

    Raises:
        BenchmarkError: the two models differ.
    """
    directories = {"written": place.work / "written", "recipe": place.work / "recipe"}
    writing = run(place, "write", bai(place, directories["written"], "kernel"), directories["written"])
    remove(directories["recipe"])
    recipe = [*recipe_command(place), "--out", directories["recipe"], "--recipe-only", "--cache", place.cache]
    measure(recipe, place.work / "recipe.log")
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in directories}
    for number in range(1, repeats + 1):
        for kind, directory in directories.items():
            warm(place.trio.files if kind == "recipe" else sorted(directory.glob("*.safetensors")))
            runs[kind].append(_load(place, kind, directory))
            say(f"{number}/{repeats} load {kind}: {runs[kind][-1]['loaded']:.2f} s")
    for directory in directories.values():
        remove(directory)
    digests = {found["digest"] for kind in runs.values() for found in kind}
    if len(digests) != 1:
        raise BenchmarkError("the model that was merged while it was loaded differs from the one that was written")
    return {"runs": runs, "writing": vars(writing)}


def _load(place: Place, kind: str, directory: Path) -> dict[str, Any]:
    log = place.work / f"load-{kind}.log"
    cost = measure([sys.executable, PROGRAMS / "load_once.py", directory], log)
    found: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return found | {"process": vars(cost)}
