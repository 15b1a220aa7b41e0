"""Runs read from our own tables and from other trainers' logs."""

import json
from pathlib import Path

import pandas as pd
import pytest

from bai_pipeline.dynamics.log_formats import FORMATS, format_of
from bai_pipeline.dynamics.logs import read_runs
from bai_pipeline.errors import DataError

STEPS = pd.DataFrame(
    {"step": [0, 1, 2], "length_mean": [9.0, 8.0, 7.0], "score_mean": [0.1, 0.2, 0.3], "stop_gap": 0.1}
)


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def published(root: Path, steps: pd.DataFrame) -> Path:
    """A run's object: a part file for every table."""
    responses = steps[[name for name in ("seed", "step") if name in steps.columns]].assign(length=7, score=0.5)
    prefixes = responses.assign(prefix=0, tokens=9, value_error=0.1).drop(columns=["length", "score"])
    for name, table in (("steps", steps), ("responses", responses), ("prefixes", prefixes)):
        (root / name).mkdir(parents=True)
        half = len(table) // 2
        table[:half].to_parquet(root / name / "part-000000.parquet")
        table[half:].to_parquet(root / name / "part-000001.parquet")
    return root


@pytest.mark.parametrize("inside", ["", "metrics", "work/metrics"])
def test_a_runs_directory_has_all_its_tables(tmp_path: Path, inside: str) -> None:
    published(tmp_path / "run" / inside, STEPS)
    (run,) = read_runs(tmp_path / "run").values()
    assert run.steps["length_mean"].tolist() == [9.0, 8.0, 7.0]
    assert run.responses is not None
    assert run.responses["length"].tolist() == [7, 7, 7]
    assert run.prefixes is not None
    assert "stop_gap" in run.steps.columns


def test_the_table_of_steps_alone_finds_the_tables_beside_it(tmp_path: Path) -> None:
    runs = read_runs(published(tmp_path / "run", STEPS) / "steps")
    assert list(runs) == ["run"]
    assert runs["run"].responses is not None


def test_seeds_in_one_table_are_runs(tmp_path: Path) -> None:
    both = pd.concat([STEPS.assign(seed=seed, length_mean=STEPS["length_mean"] + seed) for seed in (0, 1)])
    runs = read_runs(published(tmp_path / "run", both))
    assert list(runs) == ["run, seed 0", "run, seed 1"]
    assert runs["run, seed 1"].steps["length_mean"].tolist() == [10.0, 9.0, 8.0]
    assert runs["run, seed 1"].responses is not None
    assert len(runs["run, seed 1"].responses) == 3


@pytest.mark.parametrize("name", ["mean_length", "length_mean", "length", "response_length", "avg_length"])
@pytest.mark.parametrize("score", ["score", "reward", "mean_reward"])
def test_a_plain_table_needs_a_step_a_length_and_a_score(tmp_path: Path, name: str, score: str) -> None:
    runs = read_runs(csv(tmp_path / "log.csv", f"step,{name},{score}\n1,70,.5\n0,80,.25\n"))
    assert runs["log"].steps[["step", "length_mean", "score_mean"]].to_numpy().tolist() == [[0, 80, 0.25], [1, 70, 0.5]]


def test_the_score_may_be_absent(tmp_path: Path) -> None:
    assert read_runs(csv(tmp_path / "log.tsv", "step\tmean_length\n0\t70\n"))["log"].has("length_mean")


LOGS = {
    "trl-grpo": {"completions/mean_length": 80, "completions/clipped_ratio": 0.25, "reward": 0.5, "entropy": 0.75},
    "openrlhf": {
        "rollout/response_length_mean": 80,
        "rollout/truncated_rate": 0.25,
        "rollout/reward_mean": 0.5,
        "entropy_loss": 0.75,
        "response_length": 81,
        "reward": 0.6,
    },
    "verl": {
        "response_length/mean": 80,
        "response_length/clip_ratio": 0.25,
        "critic/score/mean": 0.5,
        "critic/rewards/mean": 0.4,
        "actor/entropy": 0.75,
        "actor/ppo_kl": -0.001,
    },
}


@pytest.mark.parametrize("form", sorted(LOGS))
@pytest.mark.parametrize("prefix", ["", "train/"])
def test_other_trainers_logs_are_told_by_their_columns(tmp_path: Path, form: str, prefix: str) -> None:
    row = {f"{prefix}{name}": value for name, value in LOGS[form].items()}
    table = pd.DataFrame([{"train/global_step": step, **row} for step in (1, 2)])
    table.to_csv(tmp_path / "log.csv")
    assert format_of(LOGS[form]) is FORMATS[form]
    (run,) = read_runs(tmp_path / "log.csv").values()
    columns = ["step", "length_mean", "truncated_share", "score_mean", "entropy"]
    assert run.steps[columns].to_numpy().tolist() == [[1, 80, 0.25, 0.5, 0.75], [2, 80, 0.25, 0.5, 0.75]]
    assert "kl_train_sample" not in run.steps.columns, "verl's ppo_kl is an estimate of the other direction"


def test_trainer_state_gives_its_history_without_evaluations(tmp_path: Path) -> None:
    history = [
        {"step": 1, "completions/mean_length": 80.0, "reward": 0.5, "loss": 0.1},
        {"step": 1, "eval_completions/mean_length": 70.0, "eval_loss": 0.1},
        {"step": 2, "completions/mean_length": 90.0, "reward": 0.6},
        {"step": 2, "train_runtime": 10.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": history}))
    for path in (tmp_path, tmp_path / "trainer_state.json"):
        (run,) = read_runs(path).values()
        assert run.steps["length_mean"].tolist() == [80, 90]


def test_trls_ppo_logs_no_lengths_and_is_read_for_the_rest(tmp_path: Path) -> None:
    rows = [
        {"step": s, "episode": 8 * s, "eps": 3, "objective/scores": 0.5, "policy/approxkl_avg": 0.01} for s in (1, 2)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (run,) = read_runs(tmp_path / "log.jsonl").values()
    assert not run.has("length_mean")
    assert run.has("score_mean", "kl_train_sample")


def test_verls_file_logger_nests_its_numbers(tmp_path: Path) -> None:
    rows = [{"step": s, "data": {"response_length/mean": 80 - s, "critic/score/mean": 0.5}} for s in (1, 2)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_runs(tmp_path / "log.jsonl")["log"].steps["length_mean"].tolist() == [79, 78]


def test_a_panel_exported_from_weights_and_biases_has_a_run_per_column(tmp_path: Path) -> None:
    head = ",".join(f'"{r} - response_length/mean{end}"' for r in ("a", "b - 2") for end in ("", "__MIN", "__MAX"))
    runs = read_runs(csv(tmp_path / "wandb.csv", f'"Step",{head}\n0,80,80,80,50,50,50\n1,70,70,70,,,\n'))
    assert list(runs) == ["a", "b - 2"]
    assert runs["a"].steps["length_mean"].tolist() == [80, 70]
    assert runs["b - 2"].steps["length_mean"].tolist() == [50]


def test_what_is_missing_is_named_with_the_file_and_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.csv \(format plain\): expected a column mean_length or .*got step, loss"):
        read_runs(csv(tmp_path / "log.csv", "step,loss\n0,1\n"))
    with pytest.raises(DataError, match="expected a column step or"):
        read_runs(csv(tmp_path / "log.csv", "mean_length,loss\n0,1\n"))
    with pytest.raises(DataError, match=r"log.csv.*several for step 0: is it more than one run"):
        read_runs(csv(tmp_path / "log.csv", "step,mean_length\n0,1\n0,2\n"))
    with pytest.raises(DataError, match=r"log.csv: expected numbers"):
        read_runs(csv(tmp_path / "log.csv", "step,mean_length\n0,long\n"))
    with pytest.raises(DataError, match=r"log.csv: no row has a step"):
        read_runs(csv(tmp_path / "log.csv", "step,mean_length\n0,\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("log.csv", ""), ("log.json", "[1, 2]"), ("log.jsonl", "{"), ("log.parquet", "no"), ("log.txt", "a")],
)
def test_a_file_that_is_no_log_is_a_data_error_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(DataError, match=name):
        read_runs(csv(tmp_path / name, text))


def test_nothing_and_unknown_formats_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_runs(tmp_path / "absent")
    with pytest.raises(DataError, match=r"steps/, metrics/steps/ or trainer_state.json"):
        read_runs(tmp_path)
    with pytest.raises(DataError, match="expected a format of bai"):
        read_runs(tmp_path, "keras")
