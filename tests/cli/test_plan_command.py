"""`bai plan`: what it prints, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bai_pipeline.cli.main import app
from bai_pipeline.errors import CheckpointError, RecipeError, StudyError

RUNNER = CliRunner()
GIB = 2**30


def bai_plan(*words: str | Path) -> str:
    result = RUNNER.invoke(app, ["plan", *map(str, words)])
    if result.exception is not None:
        raise result.exception
    return result.output


def as_json(*words: str | Path) -> Any:
    return json.loads(bai_plan(*words, "--json"))


def test_a_plan_names_parameters_memory_disk_and_whether_it_fits() -> None:
    output = bai_plan("olmoe-1b-7b")
    for text in ("6,919,161,856", "GiB of a GPU (ZeRO 3, bfloat16, 8 ranks)", "rollouts: weights", "fits: of 72.0 GiB"):
        assert text in output
    assert "days a run" not in output


def test_the_papers_model_needs_its_eight_nodes() -> None:
    # A copy of the policy for rollouts takes 46 GiB of every GPU, unless the GPUs of a node share it.
    alone = as_json("paper", "--nodes", "8")
    assert not alone["gpu"]["fits"]
    assert "fits with --tensor-parallel 8" in alone["notes"]
    shared = as_json("paper", "--nodes", "8", "--tensor-parallel", "8")
    assert shared["gpu"]["fits"]
    assert shared["gpu"]["peak"] <= 0.9 * 80 * GIB
    # On one node neither the models' states, 2 · 18 · 25e9 / 8 bytes, nor anything else has room.
    assert not as_json("paper", "--tensor-parallel", "8")["gpu"]["fits"]


def test_options_change_the_layout() -> None:
    machine = ("--gpus", "4", "--nodes", "2", "--kv-cache", "2GiB", "--offload", "optimizer")
    training = ("--zero-stage", "2", "--dtype", "float32", "--micro-batch", "3", "--no-activation-checkpointing")
    found = as_json("olmoe-1b-7b", *machine, *training)
    layout = found["layout"]
    assert (layout["ranks"], layout["zero_stage"], layout["precision"]) == (8, 2, "float32")
    assert (layout["micro_batch_size"], layout["activation_checkpointing"]) == (3, False)
    assert layout["deepspeed"] == {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    assert found["gpu"]["kv_cache"] == 2 * GIB
    assert found["host"]["peak_of_a_node"] == 4 * found["host"]["peak"]
    assert found["host"]["items"]["actor: master weights"]["sample"] == pytest.approx(4 * 6_919_161_856 / 8, abs=4)


def test_a_phase_is_the_sum_of_its_items() -> None:
    for place in ("gpu", "host"):
        memory = as_json("olmoe-1b-7b")[place]
        for phase, total in memory["totals"].items():
            assert total == sum(row.get(phase, 0) for row in memory["items"].values())
        assert memory["peak"] == max(memory["totals"].values())


def test_a_throughput_gives_days() -> None:
    found = as_json("olmoe-1b-7b", "--rollout-throughput", "20000", "--training-throughput", "10000")
    step = 1024 * 3072 / 20000 + 1024 * 4096 / 10000
    assert found["time"]["step_seconds"] == pytest.approx(step)
    assert found["time"]["run_days"] == pytest.approx(400 * step / 86400)
    assert found["time"]["sweep_days"] == pytest.approx((5 + 2) * 400 * step / 86400)
    shorter = as_json("olmoe-1b-7b", "--throughput", "10000", "--response-tokens", "1000")
    assert shorter["time"]["step_seconds"] == pytest.approx((1024 * 1000 + 1024 * 2024) / 10000)
    assert "days a run" in bai_plan("olmoe-1b-7b", "--throughput", "10000")


def test_one_throughput_of_two_is_not_enough() -> None:
    result = RUNNER.invoke(app, ["plan", "olmoe-1b-7b", "--rollout-throughput", "1"])
    assert result.exit_code == 2
    assert "--training-throughput" in result.output


def test_a_study_of_the_embedded_world_is_planned_as_a_process() -> None:
    found = as_json("micro", "--ranks", "2")
    assert found["gpu"] is None
    assert (found["layout"]["ranks"], found["layout"]["zero_stage"]) == (2, 1)
    assert 0.5 * GIB < found["host"]["peak"] < GIB
    assert "MiB of a process (ZeRO 1, float32, 1 rank)" in bai_plan("micro")


def test_a_deepspeed_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": {"reduce_bucket_size": 1e6}}))
    small = as_json("olmoe-1b-7b", "--deepspeed", file)
    assert small["gpu"]["items"]["actor: reduction bucket"]["sample"] == 2 * 1_000_000
    for content in ("[1]", "{"):
        file.write_text(content)
        with pytest.raises(StudyError, match=r"deepspeed\.json"):
            bai_plan("olmoe-1b-7b", "--deepspeed", file)


def test_a_model_that_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    config = {"model_type": "qwen2", "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    study = tmp_path / "study.yaml"
    study.write_text("extends: olmoe-1b-7b\nname: mine\nbase: {path: base}\n")
    found = as_json(study)
    # Per layer projections 32 · (32 + 2 · 16) + 32², biases 32 + 2 · 16, MLP 3 · 32 · 64 and two norms.
    layer = 32 * 64 + 32 * 32 + 64 + 3 * 32 * 64 + 2 * 32
    assert found["models"]["actor"]["parameters"] == 2 * 100 * 32 + 2 * layer + 32
    assert found["models"]["actor"]["source"] == str(tmp_path / "base" / "config.json")
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "model_type": "rwkv"}))
    with pytest.raises(CheckpointError, match="got 'rwkv'"):
        as_json(study)


def test_what_is_not_understood_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected a size such as 5GB"):
        bai_plan("olmoe-1b-7b", "--gpu-memory", "large")
    with pytest.raises(StudyError, match="neither a preset"):
        bai_plan("nowhere")
    assert RUNNER.invoke(app, ["plan", "micro", "--zero-stage", "4"]).exit_code == 2


def test_planning_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['bai', 'plan', 'paper', '--json']\nfrom bai_pipeline.cli.main import app\n"
        "app(standalone_mode=False)\nprint(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
