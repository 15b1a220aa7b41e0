"""PPO as a job of several processes: the launcher, the first rank, which publishes, and the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bai_pipeline.jobs.runner import EXIT_INTERRUPTED, EXIT_REFUSED, read_result, write_spec
from bai_pipeline.jobspec import Execution, JobSpec
from bai_pipeline.settings import PpoSettings
from bai_pipeline.store import Store

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def make_spec(world: Path, store: Store, with_settings: Callable[..., PpoSettings]) -> Callable[..., JobSpec]:
    def call(steps: int = 2, every: int = 1, ranks: int = 2, **changes: Any) -> JobSpec:
        uris = {}
        for name, source in (("actor", "actor"), ("reward_model", "reward"), ("critic", "reward"), ("prompts", None)):
            with store.staging() as out:
                if source is None:
                    shutil.copyfile(world / "prompts.parquet", out / "prompts.parquet")
                else:
                    shutil.copytree(world / source, out, dirs_exist_ok=True)
                uris[name] = store.publish(name, out)
        return JobSpec(
            kind="ppo",
            code_version="2",
            inputs={name: store.digest(uri) for name, uri in uris.items()},
            settings={
                "ppo": with_settings(**changes).model_dump(mode="json"),
                "reward": {"kind": "model", "url": None, "function": None},
            },
            seed=0,
            execution=Execution(
                inputs=uris,
                until_step=steps,
                evaluate_at_step=1,
                checkpoint_every=every,
                ranks=ranks,
                zero_stage=3 if ranks > 1 else 1,
                trackers=("tensorboard",),
            ),
        )

    return call


def start(spec: JobSpec, store: Store) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bai_pipeline.jobs", write_spec(spec, store)],
        env={**os.environ, "BAI_STORE": store.location, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def test_a_job_on_two_ranks_is_published_once_and_then_done(make_spec: Callable[..., JobSpec], store: Store) -> None:
    spec = make_spec()
    code, output = wait(start(spec, store))
    assert code == 0, output
    result = read_result(spec, store)
    assert result is not None
    run = json.loads((store.open(result.object) / "run.json").read_text())
    assert (run["until_step"], list(run["policies"])) == (2, ["1", "2"])
    assert output.count("2/2, ") == 1  # one rank speaks
    (events,) = (store.job_directory(spec.identity) / "work" / "tensorboard").iterdir()
    assert b"steps/score_mean" in events.read_bytes()
    attempts = (store.job_directory(spec.identity) / "attempts.jsonl").read_text().splitlines()
    assert json.loads(attempts[0]) == {"ranks": 2, "zero_stage": 3, "until_step": 2}
    code, output = wait(start(spec, store))
    assert code == 0, output
    assert "is already done" in output


def test_a_job_that_refuses_says_so_with_its_exit_code(make_spec: Callable[..., JobSpec], store: Store) -> None:
    code, output = wait(start(make_spec(mini_batch_size=1), store))
    assert code == EXIT_REFUSED, output
    assert "TrainingError: mini_batch_size is 1, which 2 ranks cannot share equally" in output


def test_a_job_that_is_told_to_end_goes_on_where_it_was(make_spec: Callable[..., JobSpec], store: Store) -> None:
    spec = make_spec(steps=200, every=200)
    process = start(spec, store)
    metrics = store.job_directory(spec.identity) / "progress.json"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, output = wait(process)
    assert code == EXIT_INTERRUPTED, output
    assert "SIGTERM: the state was saved" in output
    (state,) = (store.job_directory(spec.identity) / "work" / "state").iterdir()
    done = int(state.name.removeprefix("step-"))
    assert done >= 1
    goal = replace(spec, execution=replace(spec.execution, until_step=done + 1))
    code, output = wait(start(goal, store))
    assert code == 0, output
    assert f"continuing after step {done}" in output


def test_where_ranks_were_started_from_outside_each_process_is_one(
    make_spec: Callable[..., JobSpec], store: Store
) -> None:
    """As by torchrun on many nodes."""
    uri = write_spec(make_spec(steps=1), store)
    done = subprocess.run(
        [*TORCHRUN, "-m", "bai_pipeline.jobs", uri],
        env={**os.environ, "BAI_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len([o for o in store.objects() if "/ppo/" in str(o)]) == 1
