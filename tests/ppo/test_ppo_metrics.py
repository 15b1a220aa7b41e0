"""The metrics tables and their parts."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.metrics import MetricsTables, Row, responses_schema, steps_schema


def steps_row(step: int) -> Row:
    row = dict.fromkeys(steps_schema(accuracy=False, reference=False, routed=False).names, 0.5 + step)
    return {**row, "seed": 3, "step": step, "length_min": 1, "length_max": 9}


def response_row(step: int, name: str) -> Row:
    return {"seed": 3, "step": step, "prompt_id": name, "length": 7, "score": 0.25, "finish_reason": "stop"}


def tables(root: Path, resume_at: int = 0) -> MetricsTables:
    made = MetricsTables(root, accuracy=False, reference=False, routed=False)
    made.resume(resume_at)
    return made


def add_steps(made: MetricsTables, steps: range, flush_after: tuple[int, ...]) -> None:
    for step in steps:
        made.add("steps", steps_row(step))
        for name in "ab":
            made.add("responses", response_row(step, name))
        if step + 1 in flush_after:
            made.flush(step + 1)


def collected(made: MetricsTables, out: Path) -> dict[str, bytes]:
    out.mkdir()
    made.collect(out)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_the_columns_are_those_of_the_contract() -> None:
    assert " ".join(steps_schema(accuracy=True, reference=True, routed=True).names) == (
        "seed step length_mean length_min length_max truncated_share score_mean score_std reward_mean accuracy "
        "kl_train_sample kl_mismatch kl_ref kl_coef entropy clip_fraction policy_loss value_loss explained_variance "
        "stop_gap grad_norm_actor grad_norm_critic lr_actor lr_critic aux_loss expert_load_max expert_load_entropy"
    )
    assert " ".join(responses_schema(accuracy=True).names) == ("seed step prompt_id length score correct finish_reason")


def test_columns_that_the_run_cannot_fill_are_absent() -> None:
    both = set(steps_schema(accuracy=True, reference=True, routed=True).names)
    assert both - set(steps_schema(accuracy=False, reference=False, routed=False).names) == {
        "accuracy",
        "kl_ref",
        "expert_load_max",
        "expert_load_entropy",
    }
    assert "correct" not in responses_schema(accuracy=False).names


def test_a_part_starts_at_a_checkpoint(tmp_path: Path) -> None:
    add_steps(tables(tmp_path), range(5), flush_after=(2, 4, 5))
    parts = sorted((tmp_path / "steps").iterdir())
    assert [part.name for part in parts] == ["part-000000.parquet", "part-000002.parquet", "part-000004.parquet"]
    assert [pq.read_table(part)["step"].to_pylist() for part in parts] == [[0, 1], [2, 3], [4]]


def test_resuming_drops_later_parts_and_leftovers(tmp_path: Path) -> None:
    add_steps(tables(tmp_path), range(6), flush_after=(2, 4, 6))
    (tmp_path / "steps" / ".part-000006.parquet").write_bytes(b"half")
    resumed = tables(tmp_path, resume_at=4)
    assert [row["step"] for row in resumed.rows("steps")] == [0, 1, 2, 3]
    assert not list((tmp_path / "steps").glob(".*"))


def test_an_interrupted_run_collects_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = tables(tmp_path / "one")
    add_steps(undisturbed, range(6), flush_after=(6,))
    add_steps(tables(tmp_path / "two"), range(5), flush_after=(2, 4))
    resumed = tables(tmp_path / "two", resume_at=2)
    add_steps(resumed, range(2, 6), flush_after=(3, 6))
    expected = collected(undisturbed, tmp_path / "out one")
    assert set(expected) == {f"{name}/part-000000.parquet" for name in ("steps", "responses", "prefixes", "samples")}
    assert collected(resumed, tmp_path / "out two") == expected


def test_a_lost_part_is_noticed(tmp_path: Path) -> None:
    add_steps(tables(tmp_path), range(4), flush_after=(2, 4))
    (tmp_path / "steps" / "part-000000.parquet").unlink()
    with pytest.raises(TrainingError, match="should hold the steps 0 to 3, once each"):
        tables(tmp_path, resume_at=4)


def test_a_row_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="a row of responses has columns"):
        tables(tmp_path).add("responses", {**response_row(0, "a"), "correct": True})
