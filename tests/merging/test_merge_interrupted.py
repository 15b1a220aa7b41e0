"""Merges that are killed, run out of disk, or lose their inputs: what was to be written is whole or absent."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bai_pipeline.checkpoints import verify
from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging import bai_recipe
from bai_pipeline.merging.destination import merge_to
from bai_pipeline.merging.engine import merge
from bai_pipeline.progress import SilentReporter

MakeModel = Callable[..., Path]

RECIPE = bai_recipe(0.3, {"instruct": 0.5, "reasoning": 0.5})
ALPHAS = ("0.1", "0.5", "0.9")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible, so that a kill meets the merge and not the disk."""
    memory = Path("/dev/shm")
    place = memory / f"bai-{os.getpid()}-{random.randrange(2**32)}" if memory.is_dir() else tmp_path / "scratch"
    place.mkdir()
    yield place
    shutil.rmtree(place)


def large_model(make_model: MakeModel, name: str, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    changes = {f"layer{n}": torch.randn(1_000_003, generator=generator).bfloat16() for n in range(16)}
    return make_model(name, seed=seed, changes=changes)


def command(models: dict[str, Path], out: Path) -> list[str]:
    alphas = [argument for alpha in ALPHAS for argument in ("--alpha", alpha)]
    sft = ["--sft", f"{models['instruct']}=0.5", "--sft", f"{models['reasoning']}=0.5"]
    cache = out.parent / "digests.json"
    call = [sys.executable, "-m", "bai_pipeline.cli", "merge", "--base", str(models["base"]), *sft, *alphas]
    return [*call, "--out", str(out), "--cache", str(cache)]


def content(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def kill_and_run_again(make_model: MakeModel, scratch: Path, times: int) -> None:
    models = {name: large_model(make_model, name, seed) for seed, name in enumerate(("base", "instruct", "reasoning"))}
    whole = scratch / "whole"
    subprocess.run(command(models, whole), check=True, capture_output=True)
    expected = content(whole)
    assert {name.split("/")[0] for name in expected} == set(ALPHAS)
    met = attempts = 0
    while met < times and attempts < 4 * times:  # a merge may be done before the signal reaches it
        attempts += 1
        out = scratch / "out"
        process = subprocess.Popen(command(models, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(scratch.glob("out/.*.partial")):
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        met += process.wait() == -signal.SIGKILL
        for alpha in ALPHAS:
            if (out / alpha).exists():
                verify(out / alpha)
        subprocess.run(command(models, out), check=True, capture_output=True)
        assert content(out) == expected
        shutil.rmtree(out)
    print(f"killed {met} times in {attempts} attempts")
    assert met == times


def test_a_killed_merge_leaves_nothing_or_all_and_the_next_one_ends_with_the_same_bytes(
    make_model: MakeModel, scratch: Path
) -> None:
    kill_and_run_again(make_model, scratch, 5)


@pytest.mark.soak
def test_fifty_killed_merges_leave_nothing_or_all(make_model: MakeModel, scratch: Path) -> None:
    kill_and_run_again(make_model, scratch, 50)


FULL_DISK = """
import sys
from pathlib import Path
import bai_pipeline.merging.engine as engine
from bai_pipeline.merging import Recipe
from bai_pipeline.merging.destination import merge_to
from bai_pipeline.progress import SilentReporter
recipe, disk, check, *models = sys.argv[1:]
if check == "unchecked":
    engine.check_space = lambda directories, nbytes: None  # as when another process takes the room meanwhile
try:
    names = dict(zip(["base_model", "instruct_sft", "reasoning_sft"], map(Path, models)))
    merge_to(Recipe.from_json(recipe), names, Path(disk) / "deep" / "out", "reasoning_sft", "1", SilentReporter())
except Exception as error:
    print(type(error).__name__, error, sep=": ")
print(sorted(path.name for path in Path(disk).rglob("*")))
"""


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("checked", r"no space left on the device: 4\d{6} bytes are needed, \d+ are free; nothing was written"),
        ("unchecked", r"model\.safetensors: cannot be written: No space left on device; \d+ bytes are free"),
    ],
)
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    make_model: MakeModel, tmp_path: Path, check: str, message: str
) -> None:
    """A file system of one megabyte, in a mount namespace of the child's own."""
    changes = {"large": torch.zeros(2_000_000).bfloat16()}
    models = [make_model(name, changes=changes) for name in ("base", "instruct", "reasoning")]
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    run = [sys.executable, "-c", FULL_DISK, RECIPE.to_json(), str(disk), check, *map(str, models)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(disk), *run],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    error, left = done.stdout.splitlines()
    assert error.startswith("CheckpointError: ")
    assert re.search(message, error), error
    assert left == "[]"


class AfterSomeBytes(SilentReporter):
    """Does something as soon as something was written."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action: Callable[[], object] | None = action

    def progress(self, done: int, total: int, **numbers: float) -> None:
        if self._action is not None:
            self._action()
            self._action = None


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (lambda file: file.unlink(), "cannot be read any more: No such file or directory"),
        (lambda file: os.truncate(file, 1000), "the file ends inside it: it was cut meanwhile|changed while"),
        (lambda file: os.utime(file), "reasoning_sft changed while it was merged"),
        (lambda file: (file.parent / "config.json").write_text("{}"), "reasoning_sft changed while it was merged"),
    ],
    ids=["vanishes", "is cut", "is touched", "gets another config"],
)
def test_an_input_that_changes_during_the_merge_is_refused(
    make_model: MakeModel, tmp_path: Path, happens: Callable[[Path], object], message: str
) -> None:
    changes = {f"layer{n}": torch.zeros(9_000_000).bfloat16() for n in range(2)}
    models = {f"{name}_sft": make_model(f"{name}_sft", changes=changes) for name in ("instruct", "reasoning")}
    models["base_model"] = make_model("base_model", changes=changes)
    file, out = models["reasoning_sft"] / "model.safetensors", tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match=message) as caught:
        merge(RECIPE, models, out, "reasoning_sft", "1", AfterSomeBytes(lambda: happens(file)), threads=1)
    assert "reasoning_sft" in str(caught.value)
    assert list(out.iterdir()) == []


@pytest.fixture
def models(make_model: MakeModel) -> dict[str, Path]:
    names = ("base_model", "instruct_sft", "reasoning_sft")
    return {name: make_model(name, seed=seed) for seed, name in enumerate(names)}


def test_the_same_merge_again_reads_no_tensor_and_writes_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination, cache = tmp_path / "actor", tmp_path / "digests.json"
    first = merge_to(RECIPE, models, destination, "reasoning_sft", "1", SilentReporter(), cache=cache)
    before = {file.name: file.stat().st_mtime_ns for file in destination.iterdir()}
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("a tensor was read"))
    again = merge_to(RECIPE, models, destination, "reasoning_sft", "1", SilentReporter(), cache=cache)
    assert again == first
    assert {file.name: file.stat().st_mtime_ns for file in destination.iterdir()} == before


def other_weights(models: dict[str, Path], tmp_path: Path) -> None:
    file = models["instruct_sft"] / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def other_template(models: dict[str, Path], tmp_path: Path) -> None:
    (models["reasoning_sft"] / "chat_template.jinja").write_text("another")


def damaged(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "actor" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_weights, "is another merge, it differs in instruct_sft"),
        (other_template, "is another merge, it differs in config or tokenizer"),
        (damaged, r"not what bai_manifest.json recorded: tensor \w+ differs"),
        (lambda models, tmp_path: (tmp_path / "actor" / "bai_manifest.json").unlink(), "is not a merged checkpoint"),
    ],
)
def test_a_destination_that_holds_something_else_is_left_alone(
    models: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, Path], Path], object],
    message: str,
) -> None:
    destination, cache = tmp_path / "actor", tmp_path / "digests.json"
    merge_to(RECIPE, models, destination, "reasoning_sft", "1", SilentReporter(), cache=cache)
    change(models, tmp_path)
    before = content(destination)
    with pytest.raises(CheckpointError, match=message):
        merge_to(RECIPE, models, destination, "reasoning_sft", "1", SilentReporter(), cache=cache)
    assert content(destination) == before
