"""The PPO benchmark's numbers and page, from made-up runs; and the models that it makes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bai_pipeline.synthetic.olmoe import build_olmoe
from benchmarks.bench_merge.measurement import BenchmarkError
from benchmarks.bench_ppo.contestants import TRL_VARIANTS, together
from benchmarks.bench_ppo.parts import choices, last_line
from benchmarks.bench_ppo.programs.world import MODEL, with_end_token, word_tokenizer
from benchmarks.bench_ppo.report import markdown
from benchmarks.bench_ppo.summary import Summary, phase_seconds, ratios
from benchmarks.bench_ppo.task import EOS, PAD, Clock, Task

BATCH = 8


def run(*cpu: float, wall: float = 4.0, tokens: int = 80, rss: float = 1e6) -> dict[str, Any]:
    """A run with one lap for each number of CPU seconds."""
    phases = {"sample": wall / 4, "update": wall / 2}
    lap = {"wall": wall, "responses": BATCH, "tokens": tokens, "shortest": 1, "longest": 20, "phases": phases}
    return {"laps": [{**lap, "cpu": one} for one in cpu], "peak_rss": rss}


def test_rates_are_medians_of_runs_and_within_a_run_of_all_steps_together() -> None:
    # 16 responses in 4, 8 and 2 CPU seconds: 4, 2 and 8 a second.
    runs = [run(1.0, 3.0), run(4.0, 4.0, rss=3e6), run(1.0, 1.0, rss=2e6)]
    own = Summary.of(runs, BATCH)
    assert own == Summary(samples_per_cpu=4, samples_per_wall=2, tokens_per_cpu=40, mean_length=10, peak_rss=2e6)


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([run(1.0), run(2.0)], [run(3.0), run(8.0)], BATCH, "cpu") == [3.0, 4.0]
    assert ratios([run(1.0, wall=2.0)], [run(1.0, wall=5.0)], BATCH, "wall") == [2.5]


def test_seconds_of_a_phase_are_a_step_s() -> None:
    assert phase_seconds([run(1.0, 1.0, wall=4.0), run(1.0, wall=8.0), run(1.0, wall=8.0)]) == {
        "sample": 2.0,
        "update": 4.0,
    }


def test_ranks_add_their_cpu_seconds_and_wait_for_the_slowest() -> None:
    (lap,) = together([run(1.0, wall=5.0)["laps"], run(2.0, wall=4.0)["laps"]])
    assert (lap["cpu"], lap["wall"], lap["tokens"]) == (3.0, 5.0, 80)


def test_a_scenario_is_measured_with_the_setting_that_its_pilot_found_fastest() -> None:
    first, second, *_ = TRL_VARIANTS
    pilot = {"fixed": {first: run(3.0), second: run(2.0)}, "natural": {first: run(2.0), second: run(3.0)}}
    expected = {"fixed": second, "natural": first, "longer": first}
    assert choices(pilot, ["fixed", "natural", "longer"], BATCH) == expected


def test_a_failure_is_noted_by_the_line_that_names_it() -> None:
    named = "bai_pipeline.errors.TrainingError: PPO runs on one rank"
    log = f"torchrun ended with 1\nTraceback:\n  {named}\ntorch.distributed.elastic: ChildFailedError: there"
    assert last_line(BenchmarkError(log)) == named
    assert last_line(BenchmarkError("one line")) == "one line"


def test_laps_of_the_warm_up_are_not_written(tmp_path: Path) -> None:
    clock = Clock()
    for lengths in ([1, 2], [3, 5], [4, 4]):
        clock.mark("sample")
        clock.lap(lengths)
    clock.mark("update")
    clock.lap([6])
    clock.write(tmp_path / "laps.json", 1, versions={"trl": "1"})
    found = json.loads((tmp_path / "laps.json").read_text())
    assert [lap["tokens"] for lap in found["laps"]] == [8, 8, 6]
    assert [list(lap["phases"]) for lap in found["laps"]] == [["sample"], ["sample"], ["update"]]
    assert all(lap["wall"] >= 0 and lap["cpu"] >= 0 for lap in found["laps"])
    assert found["versions"] == {"trl": "1"}


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    task = Task("root", 0.1, steps=2, options={"experts": "eager"})
    task.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == task


def test_the_page_says_what_was_reached_and_what_was_not_measured() -> None:
    page = markdown(record(ours=[run(1.0)] * 3, trl=[run(1.6), run(1.7), run(1.8)])).splitlines()
    assert "| fixed length (no end token) | 1.5 | 1.70 | yes |" in page
    assert "| natural end (end token 1 in 40) | 2.5 | 1.70 | no |" in page
    row = next(line for line in page if line.startswith("| bai_pipeline | 8.00 |"))
    assert row.endswith("| 1.70 | 1.60–1.80 | 1.00 |")
    assert "- vLLM: not here" in page
    assert next(line for line in page if line.startswith("| 2 |")).endswith("| 0.80 | 1.00 |")
    assert next(line for line in page if line.startswith("| embedded sampler |")).endswith("| 2.00 |")


def record(ours: Sequence[Any], trl: Sequence[Any]) -> dict[str, Any]:
    variant = next(iter(TRL_VARIANTS))
    scenarios = ("fixed", "natural")
    return {
        "date": "2026-11-24T00:00:00+00:00",
        "commit": "abc",
        "command": "python -m benchmarks.bench_ppo",
        "machine": {"cores": 2, "cpu": "cpu", "memory": 2**30, "system": "Linux"},
        "versions": {"torch": "2"},
        "settings": {
            "prompt_tokens": 32,
            "new_tokens": 128,
            "batch_size": BATCH,
            "mini_batch_size": 4,
            "warmup": 1,
            "steps": 1,
            "repeats": 3,
        },
        "trl": dict.fromkeys(scenarios, variant),
        "train": {name: {"ours": ours, "trl": trl} for name in scenarios},
        "sampling": {"fixed": {"embedded": [run(1.0)], "generate grouped_mm": [run(2.0)], "vllm": [run(3.0)]}},
        "ranks": {"scenario": "fixed", "runs": {"1": [run(4.0)], "2": [run(5.0)]}},
        "pilot": {"fixed": {variant: run(1.0)}},
        "notes": ["vLLM: not here"],
    }


@pytest.mark.parametrize("probability", [0.0, 1 / 40])
def test_the_end_token_has_about_the_probability_that_was_asked_for(probability: float) -> None:
    model = with_end_token(build_olmoe(MODEL, word_tokenizer(), seed=0), probability)
    words = torch.randint(4, 256, (8, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(words).logits[:, 8:].softmax(-1)
    assert found[..., EOS].mean().item() == pytest.approx(probability, rel=0.1, abs=1e-12)
    assert found[..., PAD].max().item() < 1e-12
