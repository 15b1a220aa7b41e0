"""Supervised training as a job of several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bai_pipeline.jobs.runner import read_result, write_spec
from bai_pipeline.jobspec import Execution, JobSpec
from bai_pipeline.store import Store
from bai_pipeline.tables import write_table
from tests import tiny
from tests.sft.conftest import conversation, documents

TRAINING = tiny.TRAINING.model_copy(update={"aux_loss_coef": 0.0})
"""The router's loss is of each rank's own tokens; all else is a sum over those of all ranks."""
CHATS = [conversation(f"sum a {n} b 0", "ok " * (n % 3) + f"ans {n}") for n in range(10)]


def publish(store: Store, kind: str, write: Callable[[Path], object]) -> str:
    with store.staging() as out:
        write(out / f"{kind}.parquet")
        return store.publish(kind, out)


def run(store: Store, kind: str, inputs: dict[str, str], settings: dict[str, Any], **execution: Any) -> str:
    """The URI of what a job of its own processes leaves."""
    spec = JobSpec(
        kind=kind,
        code_version="1",
        inputs={name: store.digest(uri) for name, uri in inputs.items()},
        settings={"training": TRAINING.model_dump(mode="json"), **settings},
        seed=0,
        execution=Execution(inputs=inputs, **execution),
    )
    done = subprocess.run(
        [sys.executable, "-m", "bai_pipeline.jobs", write_spec(spec, store)],
        env={**os.environ, "BAI_STORE": str(store.root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(f"{TRAINING.steps}/{TRAINING.steps}, ") == 1  # one rank speaks
    result = read_result(spec, store)
    assert result is not None
    assert (store.open(result.object) / "bai_manifest.json").is_file()
    return result.object


def train(root: Path, kind: str, **execution: Any) -> dict[str, torch.Tensor]:
    """The weights of a base, or of an SFT model of it."""
    store = Store(root)
    pretraining = {"data": publish(store, "pretraining", documents)}, {"model": tiny.MODEL.model_dump(mode="json")}
    if kind == "pretrain":
        return load_file(store.open(run(store, kind, *pretraining, **execution)) / "model.safetensors")
    base = run(store, "pretrain", *pretraining)
    chats = publish(store, "chats", lambda path: write_table(CHATS, path))
    uri = run(store, kind, {"base": base, "data": chats}, {"chat_template": None}, **execution)
    return load_file(store.open(uri) / "model.safetensors")


@pytest.mark.parametrize(
    ("stage", "kind"), [(0, "pretrain"), (3, "finetune"), pytest.param(2, "finetune", marks=pytest.mark.soak)]
)
def test_two_ranks_leave_the_model_that_one_leaves(tmp_path: Path, stage: int, kind: str) -> None:
    one, two = (train(tmp_path / str(ranks), kind, ranks=ranks, zero_stage=stage) for ranks in (1, 2))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-4, rtol=1e-3)
