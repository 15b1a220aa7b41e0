import json
import shutil
import subprocess
import sys
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from bai_pipeline.errors import CheckpointError, DataError
from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.evals import evaluate_checkpoint
from bai_pipeline.progress import SilentReporter
from bai_pipeline.settings import ModelSettings
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer

MODEL = ModelSettings(
    num_hidden_layers=1,
    hidden_size=16,
    num_attention_heads=2,
    num_experts=2,
    num_experts_per_tok=1,
    intermediate_size=16,
    max_position_embeddings=64,
)


def settings(*benchmarks: str, max_new_tokens: int = 12, temperature: float = 0.0) -> EvalSettings:
    return EvalSettings(
        benchmarks=benchmarks,
        engine="embedded",
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        limit=None,
        batch_size=2,
        overrides={},
        code_isolation="bubblewrap",
        judge=None,
    )


def parrot(tokenizer: PreTrainedTokenizerFast, successors: dict[str, str]) -> OlmoeForCausalLM:
    """A model whose next word depends on the last word alone, as `successors` says, and is <eos> after any other.

    With the layers' output projections at zero, the residual stream is the embedding; the norm only scales it. One
    direction per word in embedding and head makes the next word a table look-up.
    """
    size = len(tokenizer)
    model = build_olmoe(MODEL.model_copy(update={"hidden_size": 64}), tokenizer, seed=0)
    assert size <= 64
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("o_proj.weight") or "down_proj" in name:
                weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, 64))
        head = torch.zeros(size, 64)
        for word, index in tokenizer.get_vocab().items():
            head[tokenizer.convert_tokens_to_ids(successors.get(word, "<eos>")), index] = 1.0
        model.lm_head.weight.copy_(head)
    return model


def save(model: OlmoeForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> Path:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def answers_seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says "<think> so </think> ans 7" to everything."""
    tokenizer = build_tokenizer()
    words = ["<asst>", "<think>", "so", "</think>", "ans", "7"]
    model = parrot(tokenizer, dict(pairwise(words)))
    return save(model, tokenizer, tmp_path_factory.mktemp("answers_seven"))


def write_benchmark(path: Path, problems: dict[str, str]) -> None:
    rows = [
        {"id": f"p{i}", "messages": [{"role": "user", "content": prompt}], "prompt": prompt, "answer": answer}
        for i, (prompt, answer) in enumerate(problems.items())
    ]
    path.mkdir()
    (path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    write_benchmark(
        directory / "four", {"sum a 3 b 4": "7", "max a 7 b 2": "7", "max a 1 b 2 c 7": "7", "sum a 1 b 1": "2"}
    )
    write_benchmark(directory / "one", {"sum a 1 b 2": "3"})
    return directory


def run(model: Path, data: Path, out: Path, chosen: EvalSettings, seed: int = 0) -> dict[str, float | int | str]:
    out.mkdir()
    there = {name: data / name for name in chosen.benchmarks if (data / name).is_dir()}
    cache = out.parent / "cache"
    return evaluate_checkpoint(model, model.name, there, out, chosen, seed, SilentReporter(), cache=cache)


def test_a_model_that_always_answers_seven_is_right_where_the_answer_is_seven(
    answers_seven: Path, data: Path, tmp_path: Path
) -> None:
    metrics = run(answers_seven, data, tmp_path / "out", settings("four", "one"))

    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert list(scores.columns) == ["benchmark", "metric", "score", "stderr", "n", "max_new_tokens", "reason"]
    four, one = scores.to_dict("records")
    # variance of (1, 1, 1, 0) with n - 1: 0.75 / 3 = 0.25; over n = 4 and rooted: 0.25
    assert four | {"reason": None} == {
        "benchmark": "four",
        "metric": "exact_match",
        "score": 0.75,
        "stderr": pytest.approx(0.25),
        "n": 4,
        "max_new_tokens": 12,
        "reason": None,
    }
    assert scores["reason"].isna().all()
    assert (one["benchmark"], one["score"], one["n"]) == ("one", 0.0, 1)
    assert isnan(one["stderr"])

    assert metrics["four"] == 0.75
    assert metrics["average"] == 0.375
    assert "one_stderr" not in metrics
    assert metrics["no_answer_share"] == 0.0
    assert metrics["truncated_share"] == 0.0
    assert metrics["response_length_mean"] == 6  # five words and <eos>


def test_every_response_is_logged_with_its_thinking_and_its_extracted_answer(
    answers_seven: Path, data: Path, tmp_path: Path
) -> None:
    run(answers_seven, data, tmp_path / "out", settings("four"))
    samples = pd.read_parquet(tmp_path / "out/samples/four.parquet")
    assert list(samples.columns) == [
        *("id", "group", "repeat", "prompt", "response", "extracted", "answer", "score", "weight", "tokens"),
        *("finish_reason", "detail"),
    ]
    assert samples["id"].tolist() == ["p0", "p1", "p2", "p3"]
    assert samples["prompt"].tolist()[2] == "<bos> <user> max a 1 b 2 c 7 <asst>"
    assert set(samples["response"]) == {"<think> so </think> ans 7"}
    assert set(samples["extracted"]) == {"7"}
    assert samples["answer"].tolist() == ["7", "7", "7", "2"]
    assert samples["score"].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_response_cut_before_its_answer_has_none_and_is_wrong(
    answers_seven: Path, data: Path, tmp_path: Path
) -> None:
    metrics = run(answers_seven, data, tmp_path / "out", settings("four", max_new_tokens=4))
    samples = pd.read_parquet(tmp_path / "out/samples/four.parquet")
    assert set(samples["response"]) == {"<think> so </think> ans"}
    assert samples["extracted"].isna().all()
    assert not samples["score"].any()
    assert (metrics["truncated_share"], metrics["no_answer_share"]) == (1.0, 1.0)


def test_thinking_markers_that_a_tokenizer_declares_special_stay_in_the_log(data: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = parrot(tokenizer, {"<asst>": "<think>", "<think>": "ans", "ans": "7"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    run(save(model, tokenizer, tmp_path / "model"), data, tmp_path / "out", settings("one"))
    assert pd.read_parquet(tmp_path / "out/samples/one.parquet")["response"].tolist() == ["<think> ans 7"]


def test_sampling_is_repeated_by_the_same_seed_and_changed_by_another(data: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = save(build_olmoe(MODEL, tokenizer, seed=0), tokenizer, tmp_path / "model")
    responses = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        run(model, data, tmp_path / name, settings("four", temperature=1.0), seed)
        responses.append(pd.read_parquet(tmp_path / name / "samples/four.parquet")["response"].tolist())
    assert responses[0] == responses[1]
    assert responses[0] != responses[2]


def test_greedy_answers_are_those_of_transformers_generate(data: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = build_olmoe(MODEL, tokenizer, seed=3)
    run(save(model, tokenizer, tmp_path / "model"), data, tmp_path / "out", settings("four"))
    for row in pd.read_parquet(tmp_path / "out/samples/four.parquet").itertuples():
        prompt = tokenizer(row.prompt, return_tensors="pt", add_special_tokens=False)
        tokens = model.generate(  # type: ignore[misc]
            input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"], do_sample=False, max_new_tokens=12
        )[0, prompt["input_ids"].shape[1] :].tolist()
        body = tokens[: tokens.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in tokens else tokens
        assert row.response == tokenizer.decode(body)


def test_a_benchmark_without_data_is_a_hole_with_its_reason(answers_seven: Path, data: Path, tmp_path: Path) -> None:
    metrics = run(answers_seven, data, tmp_path / "out", settings("four", "mmlu"))
    scores: Any = pd.read_parquet(tmp_path / "out/scores.parquet").set_index("benchmark")
    assert isnan(scores.loc["mmlu", "score"])
    assert (scores.loc["mmlu", "n"], scores.loc["mmlu", "reason"]) == (0, "no data: bai data fetch mmlu")
    assert (metrics["average"], metrics["not_run"]) == (0.75, 1)
    assert "mmlu" not in metrics


def test_malformed_data_leaves_nothing_behind(answers_seven: Path, data: Path, tmp_path: Path) -> None:
    (data / "four" / "test.jsonl").write_text('{"id": "p0", "prompt": "sum a 3 b 4"}\n')
    with pytest.raises(DataError, match="answer"):
        run(answers_seven, data, tmp_path / "out", settings("one", "four"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkpoint_without_a_chat_template_is_not_asked_in_chat(data: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    model = save(build_olmoe(MODEL, tokenizer, seed=0), tokenizer, tmp_path / "model")
    run(model, data, tmp_path / "out", settings("one"))
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    assert scores["reason"].tolist() == ["the model has no chat template"]


def test_what_was_answered_before_is_not_asked_again(answers_seven: Path, data: Path, tmp_path: Path) -> None:
    run(answers_seven, data, tmp_path / "out", settings("four"))
    journal = tmp_path / "cache/responses" / f"{answers_seven.name}.jsonl"
    lines = journal.read_text().splitlines()
    assert len(lines) == 4
    # a kill in the middle of the third line
    journal.write_text("\n".join([*lines[:2], lines[2][:20]]))
    run(answers_seven, data, tmp_path / "again", settings("four", "one"))
    kept = [json.loads(line)["key"] for line in journal.read_text().splitlines() if line.endswith("}")]
    assert len(kept) == len(set(kept)) == 5
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "out/samples/four.parquet"), pd.read_parquet(tmp_path / "again/samples/four.parquet")
    )


def test_a_longer_response_than_the_model_has_positions_for_is_not_asked_for(
    answers_seven: Path, data: Path, tmp_path: Path
) -> None:
    run(answers_seven, data, tmp_path / "out", settings("four", max_new_tokens=1000))
    scores = pd.read_parquet(tmp_path / "out/scores.parquet")
    # <bos> <user> max a 1 b 2 c 7 <asst> are ten of 64 positions
    assert scores["max_new_tokens"].tolist() == [54]


def test_a_checkpoint_that_lacks_a_tensor_is_refused(answers_seven: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(answers_seven, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    save_file({name: t for name, t in load_file(weights).items() if name != "model.norm.weight"}, weights)
    with pytest.raises(CheckpointError, match=r"/model, got them without model\.norm\.weight$"):
        run(tmp_path / "model", data, tmp_path / "out", settings("one"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_response_ends_at_the_tokenizer_s_end_token_too(data: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    model = parrot(tokenizer, {"<asst>": "ans", "ans": "7"})
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("hmm")
    metrics = run(save(model, tokenizer, tmp_path / "model"), data, tmp_path / "out", settings("one"))
    assert metrics["truncated_share"] == 0.0
    assert pd.read_parquet(tmp_path / "out/samples/one.parquet")["response"].tolist() == ["ans 7"]


def test_importing_the_package_imports_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys, bai_pipeline.evals; print([m for m in ('torch', 'lm_eval', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
