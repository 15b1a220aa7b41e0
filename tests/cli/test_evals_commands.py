import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from bai_pipeline.cli.main import app
from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.paper import BENCHMARKS as PRINTED
from bai_pipeline.settings import ModelSettings
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from bai_pipeline.synthetic.world_tables import write_benchmark_data
from tests.evals.judging.judge_server import Asked, Reply, fails, serving

MODEL = ModelSettings(
    num_hidden_layers=1,
    hidden_size=16,
    num_attention_heads=2,
    num_experts=2,
    num_experts_per_tok=1,
    intermediate_size=16,
    max_position_embeddings=64,
)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    write_benchmark_data(tmp_path, load_study("smoke").world, ["held_out_sum"], 0)
    return tmp_path / "held_out_sum"


def test_the_nine_benchmarks_are_listed_with_what_a_reader_has_to_know(tmp_path: Path) -> None:
    (tmp_path / "benchmarks/mmlu").mkdir(parents=True)
    (tmp_path / "benchmarks/mmlu/test.jsonl").touch()
    result = CliRunner().invoke(app, ["evals", "list", "--json", "--data", str(tmp_path)])
    listed = json.loads(result.output)
    assert [entry["title"] for entry in listed] == list(PRINTED)
    assert [entry["name"] for entry in listed if entry["there"]] == ["mmlu"]
    assert all(entry[field] for entry in listed for field in ("metric", "asked", "aggregation", "source", "licence"))
    (aime,) = [entry for entry in listed if entry["name"] == "aime_2024"]
    assert "16 samples, temperature 0.6" in aime["asked"]
    table = CliRunner().invoke(app, ["evals", "list", "--data", str(tmp_path)]).output
    assert "livebench" in table


def test_a_checkpoint_is_evaluated_and_what_it_said_is_kept(tmp_path: Path, problems: Path) -> None:
    tokenizer = build_tokenizer()
    build_olmoe(MODEL, tokenizer, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = ["evals", "run", str(tmp_path / "model"), "-b", f"held_out_sum={problems}", "-b", "mmlu"]
    options = ["--study", "smoke", "--limit", "5", "--data", str(tmp_path / "none")]
    result = CliRunner().invoke(app, [*command, *options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert scores["n"].tolist() == [5, 0]
    assert scores["reason"].fillna("").tolist() == ["", "no data: bai data fetch mmlu"]
    assert (tmp_path / "out/samples/held_out_sum.html").is_file()
    with pytest.raises(DataError, match="exists"):
        CliRunner().invoke(app, [*command, *options, "--out", str(tmp_path / "out")], catch_exceptions=False)


def test_a_served_model_is_evaluated_by_its_name(tmp_path: Path, problems: Path) -> None:
    content = {
        "choices": [{"message": {"content": "<think> so </think> ans 7"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 6},
    }
    with serving(lambda asked, number: Reply(body=json.dumps(content).encode())) as server:
        command = ["evals", "run", "served", "-b", f"held_out_sum={problems}", "--server", server.url]
        result = CliRunner().invoke(app, [*command, "--study", "smoke", "--out", str(tmp_path / "out")])
        assert result.exit_code == 0, result.output
        assert {asked.body["model"] for asked in server.asked} == {"served"}
    answers = [json.loads(line)["answer"] for line in (problems / "test.jsonl").read_text().splitlines()]
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert scores["score"].tolist() == [answers.count("7") / len(answers)]


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [("mmluu", "expected a benchmark of .*mmlu_pro.*, got 'mmluu'"), ("mmlu=nowhere", "data of mmlu in nowhere")],
)
def test_a_benchmark_that_is_none_is_refused(tmp_path: Path, benchmark: str, message: str) -> None:
    command = ["evals", "run", str(tmp_path), "-b", benchmark, "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match=message):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_an_evaluation_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path, problems: Path) -> None:
    tokenizer = build_tokenizer()
    build_olmoe(MODEL, tokenizer, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    whole = (problems / "test.jsonl").read_text()
    command = ["evals", "run", str(tmp_path / "model"), "-b", f"held_out_sum={problems}", "--study", "smoke"]
    before = {*tmp_path.iterdir()}
    (problems / "test.jsonl").write_text('{"id": "x"}\n')
    with pytest.raises(DataError, match="prompt"):
        CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert {*tmp_path.iterdir()} - before == {tmp_path / ".bai-evals"}
    (problems / "test.jsonl").write_text(whole)
    assert CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")]).exit_code == 0


def test_what_a_server_answered_is_used_until_the_output_is_there_and_never_after(
    tmp_path: Path, problems: Path
) -> None:
    content = {
        "choices": [{"message": {"content": "ans 7"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3},
    }

    def mortal(asked: Asked, number: int) -> Reply:
        return Reply(body=json.dumps(content).encode()) if number < 30 else fails(400, "no more")

    first = (problems / "test.jsonl").read_text().splitlines()[0]
    rows = [json.loads(first) | {"id": f"p{n}"} for n in range(50)]
    for row in rows:
        row["prompt"] = row["messages"][0]["content"] = f"{row['prompt']} {row['id']}"
    (problems / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(mortal) as server:
        command = ["evals", "run", "served", "-b", f"held_out_sum={problems}", "--server", server.url]
        out = ["--study", "smoke", "--out", str(tmp_path / "out")]
        with pytest.raises(EvaluationError, match="no more"):
            CliRunner().invoke(app, [*command, *out], catch_exceptions=False)
        server.asked.clear()
        assert CliRunner().invoke(app, [*command, *out]).exit_code == 0
        assert len(server.asked) == 50 - 30
        server.asked.clear()
        with pytest.raises(EvaluationError, match="no more"):
            CliRunner().invoke(app, [*command, *out[:-1], str(tmp_path / "other")], catch_exceptions=False)
    assert list((tmp_path / ".bai-evals/responses").glob("*.jsonl")) != []
