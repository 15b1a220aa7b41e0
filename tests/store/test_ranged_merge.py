"""Merging models that are in object storage reads byte ranges, and gives the bytes that it gives of files."""

import json
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bai_pipeline.checkpoints import MANIFEST_FILE, Checkpoint, describe, verify, write_manifest
from bai_pipeline.errors import CheckpointError
from bai_pipeline.loading import load_model
from bai_pipeline.merging import bai_recipe
from bai_pipeline.merging.engine import merge
from bai_pipeline.merging.plan import plan_merge
from bai_pipeline.merging.recipe_directory import localize, write_recipe_directory
from bai_pipeline.progress import SilentReporter
from bai_pipeline.store import ranged
from bai_pipeline.store.bucket import Bucket
from bai_pipeline.store.remote import RemoteStore
from tests.merging.models import OLMOE, save_models
from tests.store.object_storage import Machines

RECIPE = bai_recipe(0.3, {"instruct": 0.5, "reasoning": 0.5})


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """Sharded checkpoints with manifests."""
    made = save_models(tmp_path / "models", OLMOE, torch.bfloat16, max_shard_size="20KB")
    for path in made.values():
        write_manifest(path, describe(Checkpoint.open(path), code_version="1"))
    return made


def published(store: RemoteStore, models: dict[str, Path]) -> dict[str, str]:
    uris = {}
    for name, path in models.items():
        with store.staging() as out:
            for file in path.iterdir():
                (out / file.name).write_bytes(file.read_bytes())
            uris[name] = store.publish("finetune", out)
    return uris


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def merged(models: dict[str, Path], out: Path) -> dict[str, bytes]:
    out.mkdir()
    merge(RECIPE, models, out, "reasoning_sft", "1", SilentReporter())
    return contents(out)


def test_a_merge_of_ranges_writes_the_bytes_of_a_merge_of_files(
    machines: Machines, models: dict[str, Path], tmp_path: Path
) -> None:
    uris = published(machines.be("one"), models)
    store = machines.be("two")
    there = {name: store.open_tensors(uri, MANIFEST_FILE) for name, uri in uris.items()}
    assert merged(there, tmp_path / "ranged") == merged(models, tmp_path / "files")
    verify(tmp_path / "ranged")
    held = sum(file.stat().st_size for path in there.values() for file in path.glob("*.safetensors"))
    assert held < sum(file.stat().st_size for path in models.values() for file in path.glob("*.safetensors")) / 2
    assert not list(store.root.glob("objects/*/*"))


def test_a_model_is_loaded_from_ranges_as_from_files(
    machines: Machines, models: dict[str, Path], tmp_path: Path
) -> None:
    uris = published(machines.be("one"), models)
    store = machines.be("two")
    there = {name: store.open_tensors(uri, MANIFEST_FILE) for name, uri in uris.items()}
    loaded = []
    for name, places in (("files", models), ("ranges", there)):
        recipe, local = tmp_path / name, tmp_path / f"{name}_local"
        recipe.mkdir()
        local.mkdir()
        write_recipe_directory(plan_merge([RECIPE], places, "reasoning_sft"), recipe, paths=False)
        localize(recipe, places, local)
        loaded.append(load_model(AutoModelForCausalLM, local, dtype=torch.float32).state_dict())
    assert loaded[0].keys() == loaded[1].keys()
    assert all(torch.equal(loaded[0][name], loaded[1][name]) for name in loaded[0])


def test_a_directory_inside_an_object_and_the_whole_of_it_are_two(machines: Machines, models: dict[str, Path]) -> None:
    """As the actors of `actors: checkpoint`, which are one object."""
    store = machines.be("one")
    with store.staging() as out:
        for name, path in models.items():
            (out / "a" / name).mkdir(parents=True)
            for file in path.iterdir():
                (out / "a" / name / file.name).write_bytes(file.read_bytes())
        (out / MANIFEST_FILE).write_text("{}")
        uri = store.publish("actor_checkpoints", out)
    store = machines.be("two")
    inside = store.open_tensors(f"{uri}/a/base_model", MANIFEST_FILE)
    assert Checkpoint.open(inside).tensors.keys() == Checkpoint.open(models["base_model"]).tensors.keys()
    whole = store.open_tensors(uri, MANIFEST_FILE)
    assert Checkpoint.open(whole / "a" / "instruct_sft").nbytes == Checkpoint.open(models["instruct_sft"]).nbytes


def test_a_damaged_range_is_refused(machines: Machines, models: dict[str, Path], tmp_path: Path) -> None:
    uris = published(machines.be("one"), models)
    store = machines.be("two")
    there = {name: store.open_tensors(uri, MANIFEST_FILE) for name, uri in uris.items()}
    marker = json.loads((there["base_model"] / ranged.MARKER).read_text())
    file, (name, size) = next(iter(marker["files"].items()))
    content = bytearray(store.bucket.read(name, 0, size))
    content[-1] ^= 1
    store.bucket.put(name, bytes(content))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match=f"{file}: tensor .* of base_model: damaged"):
        merge(RECIPE, there, out, "reasoning_sft", "1", SilentReporter())
    assert list(out.iterdir()) == []
    store.bucket.delete([name])
    with pytest.raises(CheckpointError, match=f"{file}: tensor .*: {store.location}.* cannot be read"):
        merge(RECIPE, there, out, "reasoning_sft", "1", SilentReporter())


def test_a_reader_of_files_finds_a_ranged_directory_cut(machines: Machines, models: dict[str, Path]) -> None:
    uris = published(machines.be("one"), models)
    path = machines.be("two").open_tensors(uris["base_model"], MANIFEST_FILE)
    with pytest.raises(Exception, match=r"(?i)header|incomplete|invalid"):
        AutoModelForCausalLM.from_pretrained(path, local_files_only=True)


def test_a_model_without_a_manifest_is_fetched_whole(machines: Machines, models: dict[str, Path]) -> None:
    (models["base_model"] / MANIFEST_FILE).unlink()
    uris = published(machines.be("one"), models)
    store = machines.be("two")
    path = store.open_tensors(uris["base_model"], MANIFEST_FILE)
    assert path == store.path(uris["base_model"])
    assert contents(path).keys() - {".files.json"} == contents(models["base_model"]).keys()


def test_memory_is_bounded_by_what_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Content(Bucket):
        def stream(self, name: str, start: int, length: int) -> "list[memoryview]":  # type: ignore[override]
            return [memoryview(bytes(length))]

    monkeypatch.setattr(ranged, "_BUDGET", ranged._Budget(100))
    file = ranged.RangedFile(Content("s3://b/p"), "x", 1000)
    entered = threading.Event()

    def other() -> None:
        with file.fetched(0, 60):
            entered.set()

    with file.fetched(0, 60), file.fetched(100, 60):  # one thread never waits for itself
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join()
    with file.fetched(0, 1000):  # larger than all that may be held
        pass
