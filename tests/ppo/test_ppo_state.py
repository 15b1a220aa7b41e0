"""Checkpoints of the training state, with engines that write a number."""

from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.ppo.state import StateStore
from bai_pipeline.progress import SilentReporter


class CountingEngine:
    """Stands for a DeepSpeed engine: its state is a number."""

    def __init__(self) -> None:
        self.value = 0
        self.loads = 0

    def save_checkpoint(self, directory: str, *, tag: str, client_state: dict[str, Any]) -> None:
        place = Path(directory) / tag
        place.mkdir(parents=True)
        (place / "state.pt").write_text(f"{self.value} {client_state['step']}")

    def load_checkpoint(self, directory: str, *, tag: str) -> tuple[str, dict[str, Any]]:
        value, step = (Path(directory) / tag / "state.pt").read_text().split(" ")
        self.value, self.loads = int(value), self.loads + 1
        return directory, {"step": int(step)}


class FailingEngine(CountingEngine):
    def save_checkpoint(self, directory: str, *, tag: str, client_state: dict[str, Any]) -> None:
        super().save_checkpoint(directory, tag=tag, client_state=client_state)
        raise OSError("disk full")


def store(root: Path, ranks: int = 1, zero_stage: int = 1) -> StateStore:
    return StateStore(root, Ranks(0, ranks) if ranks == 1 else Pretended(0, ranks), zero_stage)


class Pretended(Ranks):
    """The first of several ranks, without the others."""

    def barrier(self) -> None:
        return None

    def agree(self, value: Any) -> Any:
        return value


def saved(root: Path, *steps: int) -> None:
    engine = CountingEngine()
    for step in steps:
        engine.value = 10 * step
        store(root).save(step, {"actor": engine}, {"kl_coef": step / 8})


def load(root: Path) -> tuple[int, CountingEngine]:
    engine = CountingEngine()
    step, trainer = store(root).load_newest({"actor": engine}, SilentReporter())
    assert trainer == ({"kl_coef": step / 8} if step else None)
    return step, engine


def test_without_a_checkpoint_a_run_starts_at_step_0(tmp_path: Path) -> None:
    step, engine = load(tmp_path)
    assert (step, engine.loads) == (0, 0)


def test_the_newest_checkpoint_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4, 6)
    step, engine = load(tmp_path)
    assert (step, engine.value) == (6, 60)
    assert store(tmp_path).steps() == [4, 6]


def test_what_was_being_written_is_never_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    with pytest.raises(OSError, match="disk full"):
        store(tmp_path).save(4, {"actor": FailingEngine()}, {})
    step, engine = load(tmp_path)
    assert (step, engine.value) == (2, 20)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no record"])
def test_a_damaged_checkpoint_is_not_loaded_but_the_one_before(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 2, 4)
    newest = tmp_path / "step-000004"
    if damage == "changed":
        (newest / "actor/state/state.pt").write_text("41 4")
    elif damage == "missing":
        (newest / "actor/state/state.pt").unlink()
    elif damage == "added":
        (newest / "actor/state/other.pt").write_text("")
    else:
        (newest / "digests.json").write_text("")
    step, engine = load(tmp_path)
    assert (step, engine.value, engine.loads) == (2, 20, 1)
    assert store(tmp_path).steps() == [2]


def test_if_every_checkpoint_is_damaged_nothing_is_loaded(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4)
    for path in tmp_path.rglob("state.pt"):
        path.write_text("0 0")
    engine = CountingEngine()
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is intact \(steps 4, 2\); nothing was loaded"):
        store(tmp_path).load_newest({"actor": engine}, SilentReporter())
    assert engine.loads == 0
    assert store(tmp_path).steps() == [2, 4]


@pytest.mark.parametrize(("ranks", "stage"), [(2, 1), (1, 3)])
def test_a_state_of_other_ranks_or_another_zero_stage_is_refused(tmp_path: Path, ranks: int, stage: int) -> None:
    saved(tmp_path, 2)
    engine = CountingEngine()
    message = (
        rf"step-000002 was written by 1 ranks under ZeRO 1, this is {ranks} under ZeRO {stage}; continue with those"
    )
    with pytest.raises(TrainingError, match=message):
        store(tmp_path, ranks, stage).load_newest({"actor": engine}, SilentReporter())
    assert engine.loads == 0
    assert load(tmp_path)[0] == 2
