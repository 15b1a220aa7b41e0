"""The merge benchmark runs, on checkpoints of 20 MB and with the contestants that only copy."""

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.bench_merge.__main__ import main
from benchmarks.bench_merge.checkpoints import Shape, shape_for
from benchmarks.bench_merge.checks import closeness, same_files
from benchmarks.bench_merge.report import COLUMNS


def test_a_run_leaves_its_raw_numbers_and_a_table_that_follows_from_them(tmp_path: Path) -> None:
    options = ["--gigabytes", "0.02", "--repeats", "1", "--only", "floor,cp"]
    places = ["--work", str(tmp_path / "work"), "--out", str(tmp_path), "--results", str(tmp_path / "results")]
    main([*options, *places])
    (raw,), (page,) = ((tmp_path / "results").glob(pattern) for pattern in ("merge-*.json", "merge-*.md"))
    record = json.loads(raw.read_text())
    assert page.stem == raw.stem == f"merge-{record['date'][:10]}"
    assert record.keys() >= {"date", "commit", "command", "machine", "versions", "settings", "warm", "notes"}
    assert record["machine"].keys() >= {"cores", "cpu", "memory"}
    assert record["warm"].keys() == {"floor", "cp"}
    for runs in record["warm"].values():
        assert [run.keys() for run in runs] == [
            {"wall", "user", "system", "peak_rss", "disk_read", "load_average"},
        ]
    lines = page.read_text().splitlines()
    assert record["commit"] in page.read_text()
    assert f"| {' | '.join(COLUMNS)} |" in lines
    wall = median(run["wall"] for run in record["warm"]["cp"])
    assert any(line.startswith(f"| cp of one | {wall:.2f} |") for line in lines)


@pytest.mark.parametrize("gigabytes", [0.5, 2, 4])
def test_a_shape_has_about_the_size_that_was_asked_for(gigabytes: float) -> None:
    assert shape_for(gigabytes).nbytes == pytest.approx(gigabytes * 1e9, rel=0.1)
    assert shape_for(gigabytes).hidden == Shape().hidden


def test_packed_experts_are_compared_with_those_that_lie_one_by_one(tmp_path: Path) -> None:
    prefix = "model.layers.0.mlp.experts"
    gates, ups = torch.arange(24.0).view(2, 3, 4).bfloat16(), torch.arange(24.0, 48.0).view(2, 3, 4).bfloat16()
    downs = torch.arange(48.0, 72.0).view(2, 4, 3).bfloat16()
    packed = {f"{prefix}.gate_up_proj": torch.cat([gates, ups], dim=1), f"{prefix}.down_proj": downs}
    single = {}
    for expert in range(2):
        for name, tensor in (("gate_proj", gates), ("up_proj", ups), ("down_proj", downs)):
            single[f"{prefix}.{expert}.{name}.weight"] = tensor[expert].clone()
    for name, tensors in (("packed", packed), ("single", single)):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    inputs = [tmp_path / "single"] * 2
    found = closeness(inputs, (0.5, 0.5), tmp_path / "single", {"other": tmp_path / "packed"})
    assert found["other"] == {"values": 72, "equal_to_ours": 1, "within_rounding": 1, "nearest": 1}
    assert same_files(tmp_path / "single", tmp_path / "single")
    assert not same_files(tmp_path / "single", tmp_path / "packed")


def test_one_value_that_is_far_off_is_counted(tmp_path: Path) -> None:
    right = torch.tensor([1.0, 2.0, 4.0, 8.0]).bfloat16()
    # One bf16 step of 1.0 is 2^-7, which rounding can make; 9.0 is 16 steps from 8.0.
    wrong = torch.tensor([1.0 + 2.0**-7, 2.0, 4.0, 9.0]).bfloat16()
    for name, tensor in (("right", right), ("wrong", wrong)):
        (tmp_path / name).mkdir()
        save_file({"w": tensor}, tmp_path / name / "model.safetensors")
    found = closeness([tmp_path / "right"], (1.0,), tmp_path / "right", {"other": tmp_path / "wrong"})
    assert found["other"] == {"values": 4, "equal_to_ours": 0.5, "within_rounding": 0.75, "nearest": 0.5}
