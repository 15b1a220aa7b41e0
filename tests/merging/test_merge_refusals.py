"""What cannot be merged: every fault names its place, nothing else is opened, and no output is left."""

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bai_pipeline.checkpoints import CHUNK_ELEMENTS, Checkpoint, encode_header, verify
from bai_pipeline.errors import BaiPipelineError, CheckpointError, RecipeError
from bai_pipeline.merging import Recipe, bai_recipe, stage_1_recipe
from bai_pipeline.merging.destination import merge_to
from bai_pipeline.merging.engine import merge
from bai_pipeline.merging.lazy import MergedTensors
from bai_pipeline.merging.plan import plan_merge
from bai_pipeline.merging.recipe_directory import open_recipe_directory, write_recipe_directory
from bai_pipeline.progress import SilentReporter
from tests.merging.conftest import CONFIG
from tests.merging.damage import renamed
from tests.merging.hostile import RECIPE, ROWS, Hostile

MakeModel = Callable[..., Path]
Models = Mapping[str, Path]

pytestmark = pytest.mark.timeout(20)

PYTHON = [Path(place).resolve() for place in (sys.prefix, sysconfig.get_path("stdlib"), Path(__file__).parents[2])]
READS = ("open", "os.listdir", "os.scandir")
NEVER = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")

opened: list[str] | None = None
"""What this process opens, links followed, while a block of `watched` lasts."""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: Python calls it before a file is opened, by whatever function."""
    if opened is None:
        return
    if event in NEVER:
        opened.append(f"{event} {arguments}")
    elif event in READS and isinstance(arguments[0], str | bytes | os.PathLike):
        opened.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(watch)


@contextmanager
def watched(*places: Path) -> Iterator[None]:
    """Nothing but these directories, the checkout and Python's own modules may be opened in the block."""
    global opened
    found: list[str] = []
    opened = found
    try:
        yield
    finally:
        opened = None
    allowed = [*PYTHON, *(place.resolve() for place in places)]
    assert found
    assert [name for name in found if not any(Path(name).is_relative_to(place) for place in allowed)] == []


@pytest.fixture
def others(make_model: MakeModel) -> dict[str, Path]:
    return {"base_model": make_model("base_model"), "instruct_sft": make_model("instruct_sft", seed=1)}


def load(recipe: Recipe, models: Models, out: Path) -> None:
    """Merge on load: a recipe directory, and every tensor of it."""
    write_recipe_directory(plan_merge([recipe], models, "reasoning_sft"), out)
    tensors = MergedTensors(open_recipe_directory(out))
    for name in tensors:
        tensors[name][...]


def refusal(recipe: Recipe, models: Models, tmp_path: Path, kind: type[BaiPipelineError], **options: Any) -> str:
    """The message; all ways of merging must raise it, open nothing but the models, and leave nothing."""
    out, results, recipes = (tmp_path / name for name in ("out", "results", "recipe"))
    for directory in (out, results, recipes):
        directory.mkdir()
    with watched(out, results, recipes, *models.values()):
        with pytest.raises(kind) as caught:
            merge(recipe, models, out, "reasoning_sft", "1", SilentReporter(), **options)
        with pytest.raises(kind) as again:
            merge_to(recipe, models, results / "actor", "reasoning_sft", "1", SilentReporter(), **options)
        assert list(out.iterdir()) == []
        assert list(results.iterdir()) == []
        assert [type(error.value) for error in (caught, again)] == [kind, kind]
        assert str(again.value) == str(caught.value)
        if not options:
            with pytest.raises(kind) as loaded:
                load(recipe, models, recipes)
            assert type(loaded.value) is kind
            assert str(loaded.value) == str(caught.value)
            assert not list(recipes.glob("*.safetensors"))
            assert (recipes / "merge.json").exists() or not list(recipes.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("hostile", ROWS, ids=lambda hostile: hostile.name)
def test_a_hostile_checkpoint_is_refused_by_name_and_leaves_nothing(
    make_model: MakeModel, tmp_path: Path, hostile: Hostile
) -> None:
    models = {
        name: make_model(name, seed=seed, changes=dict(hostile.others))
        for seed, name in enumerate(("base_model", "instruct_sft"))
    }
    bad = models["reasoning_sft"] = make_model("reasoning_sft", **{"seed": 2, **hostile.made})
    hostile.damage(bad)
    message = refusal(hostile.recipe, models, tmp_path, hostile.error)
    if hostile.error is CheckpointError:
        assert message.startswith((f"{bad}/{hostile.says}", f"{bad}: {hostile.says}"))
    else:
        assert f"reasoning_sft in {bad}" in message
        assert f"\n  - {hostile.says}" in message
    assert len(message) < 10_000
    assert message.isprintable() or message.replace("\n", "").isprintable()
    assert not (tmp_path / "exploded").exists()


def test_a_file_that_is_opened_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for read in (Path.read_bytes, lambda path: os.close(os.open(path, os.O_RDONLY))):
        with pytest.raises(AssertionError, match="/etc/passwd"), watched(tmp_path):
            read(tmp_path / "link")


def test_every_hostile_checkpoint_is_another() -> None:
    assert len({hostile.name for hostile in ROWS}) == len(ROWS) >= 40


def test_a_name_that_is_a_path_leads_nowhere(make_model: MakeModel, tmp_path: Path) -> None:
    models = {name: make_model(name) for name in RECIPE.models}
    for path in models.values():
        renamed("../../up")(path)
    with watched(tmp_path / "results", *models.values()):
        merge_to(RECIPE, models, tmp_path / "results" / "out", "base_model", "1", SilentReporter())
    assert "../../up" in verify(tmp_path / "results" / "out").tensors
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*models, "results"])


def test_links_inside_the_directory_are_followed(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    path = make_model("reasoning_sft", seed=2)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (path / name).rename(path / f"real-{name}")
        (path / name).symlink_to(f"real-{name}")
    models = others | {"reasoning_sft": path}
    with watched(tmp_path / "results", *models.values()):
        merge_to(RECIPE, models, tmp_path / "results" / "out", "reasoning_sft", "1", SilentReporter())
    assert not any(file.is_symlink() for file in (tmp_path / "results" / "out").iterdir())


def test_a_vocabulary_of_terabytes_is_refused_before_its_rows_are_listed(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    path = make_model("reasoning_sft", config=CONFIG | {"vocab_size": 2**38})
    tensors = Checkpoint.open(path).tensors
    layout = [replace(tensors["embed"], shape=(2**38, 8)), *(t for name, t in tensors.items() if name != "embed")]
    (path / "model.safetensors").write_bytes(encode_header(layout))
    size = (path / "model.safetensors").stat().st_size + sum(tensor.nbytes for tensor in layout)
    os.truncate(path / "model.safetensors", size)  # a sparse file
    with pytest.raises(CheckpointError, match="no space left on the device: 4398046511314 bytes are needed"):
        merge_to(RECIPE, others | {"reasoning_sft": path}, tmp_path / "out", "reasoning_sft", "1", SilentReporter())


def test_the_flat_position_counts_from_the_start_of_the_tensor(make_model: MakeModel, tmp_path: Path) -> None:
    tensor = torch.zeros(3, CHUNK_ELEMENTS).bfloat16()
    tensor[2, 5] = float("nan")
    models = {"reasoning_sft": make_model("reasoning_sft", changes={"large": tensor})}
    message = refusal(stage_1_recipe({"reasoning": 1.0}), models, tmp_path, CheckpointError)
    assert f"flat position {2 * CHUNK_ELEMENTS + 5};" in message


def test_a_model_that_nobody_gave_is_refused(others: dict[str, Path], tmp_path: Path) -> None:
    message = refusal(RECIPE, others, tmp_path, RecipeError)
    assert message == (
        "unknown model reasoning_sft, expected one of base_model, instruct_sft; no checkpoint was written"
    )


def test_an_input_that_changed_since_the_merge_was_ordered_is_refused(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    message = refusal(RECIPE, models, tmp_path, CheckpointError, digests={"reasoning_sft": "0" * 64})
    assert f"expected {'0' * 64}: it has changed since the merge was ordered" in message


def test_integers_cannot_be_merged(make_model: MakeModel, tmp_path: Path) -> None:
    models = {"reasoning_sft": make_model("reasoning_sft", changes={"ids": torch.arange(3)})}
    message = refusal(stage_1_recipe({"reasoning": 1.0}), models, tmp_path, CheckpointError)
    assert "tensor ids of reasoning_sft is I64, expected one of F32, BF16, F16" in message


def test_a_value_beyond_the_output_dtype_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    changes = {"norm": torch.tensor([0.0, 1e6, 1.0])}
    models = {"reasoning_sft": make_model("reasoning_sft", dtype=torch.float32, changes=changes)}
    message = refusal(stage_1_recipe({"reasoning": 1.0}, dtype="F16"), models, tmp_path, CheckpointError)
    assert "tensor norm: the merged value at flat position 1 is out of the range of F16" in message


def test_weights_are_asserted_again_at_the_write(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    recipe = bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5})
    object.__setattr__(recipe.root.inputs[0], "weight", 0.6)  # type: ignore[union-attr]
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    message = refusal(recipe, models, tmp_path, RecipeError)
    assert (
        "got 0.6 (base_model) + 0.5 (linear(instruct_sft, reasoning_sft)) = 1.1; no checkpoint was written" in message
    )


def test_an_output_directory_that_holds_something_is_left_alone(
    make_model: MakeModel, others: dict[str, Path], tmp_path: Path
) -> None:
    models = others | {"reasoning_sft": make_model("reasoning_sft", seed=2)}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("content")
    with pytest.raises(CheckpointError, match="expected an empty directory"):
        merge(RECIPE, models, tmp_path / "out", "reasoning_sft", "1", SilentReporter())
    with pytest.raises(CheckpointError, match="already exists and is not a merged checkpoint; nothing was written"):
        merge_to(RECIPE, models, tmp_path / "out", "reasoning_sft", "1", SilentReporter())
    assert (tmp_path / "out" / "mine").read_text() == "content"
