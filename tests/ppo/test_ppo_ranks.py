"""PPO on several ranks: real DeepSpeed in two processes over gloo."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from bai_pipeline.ppo import Parallelism, Schedule
from bai_pipeline.settings import PpoSettings
from tests.ppo import ppo_process

Steps = list[dict[str, Any]]

LOSSES = ("policy_loss", "value_loss", "kl_train_sample", "kl_ref", "entropy", "score_mean", "grad_norm_actor")


def steps_of(out: Path) -> Steps:
    rows: Steps = pq.read_table(out / "steps" / "part-000000.parquet").to_pylist()
    return rows


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def train(world: Path, root: Path, settings: PpoSettings, steps: int, ranks: int, parallelism: Parallelism) -> Path:
    """A run from start to end; returns what it published."""
    schedule = Schedule(until_step=steps, checkpoint_every=steps, evaluate_at_step=1)
    root.mkdir()
    processes = ppo_process.start(world, root / "work", root / "out", settings, schedule, parallelism, ranks)
    ppo_process.finish(processes)
    return root / "out"


def assert_same_losses(found: Steps, expected: Steps) -> None:
    for row, other in zip(found, expected, strict=True):
        for name in LOSSES:
            assert row[name] == pytest.approx(other[name], abs=1e-5), (row["step"], name)


@pytest.fixture
def small_rates(with_settings: Callable[..., PpoSettings]) -> PpoSettings:
    """Rounding differs with the order of sums; at these rates it does not grow into another response."""
    return with_settings(actor_learning_rate=1e-4, critic_learning_rate=1e-4, router_aux_coef=0.01)


@pytest.fixture
def one_rank(world: Path, small_rates: PpoSettings, tmp_path: Path) -> Steps:
    return steps_of(train(world, tmp_path / "one", small_rates, 5, 1, Parallelism()))


def test_two_ranks_under_zero_3_compute_what_one_computes(
    world: Path, small_rates: PpoSettings, tmp_path: Path, one_rank: Steps
) -> None:
    parallelism = Parallelism(zero_stage=3, micro_batch_size=2, frozen="zero3")
    out = train(world, tmp_path / "two", small_rates, 5, 2, parallelism)
    assert_same_losses(steps_of(out), one_rank)
    published = load_file(out / "policies" / "step-000005" / "model.safetensors")
    expected = load_file(tmp_path / "one" / "out" / "policies" / "step-000005" / "model.safetensors")
    assert published.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(published[name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.soak
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("micro", [None, 1])
def test_two_ranks_compute_what_one_computes_under_every_stage(
    world: Path, small_rates: PpoSettings, tmp_path: Path, stage: Any, micro: int | None
) -> None:
    """The router's loss is a micro-batch's, so with several it is left out."""
    settings = small_rates if micro is None else small_rates.model_copy(update={"router_aux_coef": 0.0})
    parallelism = Parallelism(zero_stage=stage, micro_batch_size=micro, activation_checkpointing=micro == 1)
    one = steps_of(train(world, tmp_path / "one", settings, 5, 1, Parallelism()))
    two = steps_of(train(world, tmp_path / "two", settings, 5, 2, parallelism))
    assert_same_losses(two, one)


def test_skewed_routing_and_unequal_lengths_hang_nobody(
    world: Path, with_settings: Callable[..., PpoSettings], tmp_path: Path
) -> None:
    """A router so sharp that a rank's few tokens leave experts without any."""
    shutil.copytree(world, tmp_path / "world")
    weights = tmp_path / "world" / "actor" / "model.safetensors"
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if "mlp.gate" in name:
            tensor.mul_(50)
    save_file(tensors, weights, {"format": "pt"})
    settings = with_settings(batch_size=8, mini_batch_size=2)
    out = train(tmp_path / "world", tmp_path / "run", settings, 3, 2, Parallelism(zero_stage=3))
    rows = steps_of(out)
    assert max(row["length_max"] - row["length_min"] for row in rows) >= 6
    assert all(row["expert_load_max"] > 1.2 for row in rows)


def killed_once(
    world: Path, root: Path, settings: PpoSettings, schedule: Schedule, parallelism: Parallelism, moment: random.Random
) -> bool:
    """Start a run, or go on with it, and kill all its ranks after a random step and pause; False if it was faster."""
    step, pause = moment.randint(1, schedule.until_step - 1), moment.uniform(0, 0.4)
    shutil.rmtree(root / "out", ignore_errors=True)
    processes = ppo_process.start(world, root / "work", root / "out", settings, schedule, parallelism, 2)
    assert processes[0].stdout is not None
    for line in processes[0].stdout:
        if int(line) >= step:
            time.sleep(pause)
            break
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    return processes[0].returncode == -signal.SIGKILL


def kill_and_compare(world: Path, root: Path, settings: PpoSettings, stage: Any, kills: int) -> None:
    """A run that is killed so many times, and started again, ends with the bytes of an undisturbed one."""
    schedule = Schedule(until_step=8, checkpoint_every=1, evaluate_at_step=2)
    parallelism = Parallelism(zero_stage=stage)
    expected = root / "expected"
    expected.mkdir()
    ppo_process.finish(
        ppo_process.start(world, expected / "work", expected / "out", settings, schedule, parallelism, 2)
    )
    seed = random.SystemRandom().randrange(10**6)
    moment, done, rounds = random.Random(seed), 0, 0
    while done < kills:
        killed = root / f"killed {rounds}"
        killed.mkdir()
        while done < kills and killed_once(world, killed, settings, schedule, parallelism, moment):
            done += 1
        shutil.rmtree(killed / "out", ignore_errors=True)
        ppo_process.finish(
            ppo_process.start(world, killed / "work", killed / "out", settings, schedule, parallelism, 2)
        )
        assert files(killed / "out") == files(expected / "out"), f"moments of seed {seed}, round {rounds}"
        rounds += 1


@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_that_are_killed_end_with_the_bytes_of_undisturbed_ones(
    world: Path, settings: PpoSettings, tmp_path: Path, stage: int
) -> None:
    kill_and_compare(world, tmp_path, settings, stage, kills=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [0, 3])
def test_ten_kills_change_no_byte(world: Path, settings: PpoSettings, tmp_path: Path, stage: int) -> None:
    """A checkpoint after every step: many a kill comes in the middle of writing one."""
    kill_and_compare(world, tmp_path, settings, stage, kills=10)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_told_to_end_saves_its_state_and_goes_on_from_there(
    world: Path, settings: PpoSettings, tmp_path: Path, ranks: int
) -> None:
    schedule = Schedule(until_step=8, checkpoint_every=8, evaluate_at_step=8)
    places = (world, tmp_path / "work", tmp_path / "out")
    processes = ppo_process.start(*places, settings, schedule, Parallelism(), ranks)
    assert processes[0].stdout is not None
    for line in processes[0].stdout:
        if int(line) == 3:
            for process in processes:
                process.send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=240)
    assert [process.returncode for process in processes] == [ppo_process.INTERRUPTED] * ranks
    (state,) = (tmp_path / "work" / "state").iterdir()
    stopped_at = int(state.name.removeprefix("step-"))
    assert 3 <= stopped_at < 8
    ppo_process.finish(ppo_process.start(*places, settings, schedule, Parallelism(), ranks))
    straight = train(world, tmp_path / "straight", settings, 8, ranks, Parallelism())
    for name in ("steps", "responses", "policies/step-000008"):
        assert files(tmp_path / "out" / name) == files(straight / name), name


def test_ranks_that_cannot_share_a_mini_batch_are_refused(
    world: Path, with_settings: Callable[..., PpoSettings], tmp_path: Path
) -> None:
    settings = with_settings(mini_batch_size=1)
    processes = ppo_process.start(
        world, tmp_path / "work", tmp_path / "out", settings, Schedule(1, 1, 1), Parallelism(), 2
    )
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert all("mini_batch_size is 1, which 2 ranks cannot share equally" in error for error in errors)
