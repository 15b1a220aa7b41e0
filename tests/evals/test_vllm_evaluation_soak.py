"""An evaluation whose responses vLLM draws, in an environment of its own, on the CPU."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torch

from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.evals import evaluate_checkpoint
from bai_pipeline.ppo.rollouts.vllm import PYTHON_VARIABLE
from bai_pipeline.progress import SilentReporter
from bai_pipeline.settings import ModelSettings
from bai_pipeline.study import load_study
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from bai_pipeline.synthetic.world_tables import write_benchmark_data

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".peers" / "vllm" / "bin" / "python"

SIZES = ModelSettings(
    num_hidden_layers=2,
    hidden_size=64,
    num_attention_heads=2,  # vLLM's attention on CPUs takes heads of 32 and more
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=32,
    max_position_embeddings=64,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def test_vllm_and_the_embedded_engine_give_the_same_greedy_responses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (PYTHON.parents[1] / ".installed").exists():
        subprocess.run(["make", ".peers/vllm/.installed"], cwd=ROOT, check=True, capture_output=True)
    monkeypatch.setenv(PYTHON_VARIABLE, str(PYTHON))
    tokenizer = build_tokenizer()
    model = build_olmoe(SIZES, tokenizer, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # far from uniform: no two tokens are equally likely but for rounding
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    study = load_study("smoke")
    write_benchmark_data(tmp_path, study.world, ["held_out_sum"], 0)
    responses = []
    for engine in ("embedded", "vllm"):
        settings = EvalSettings.model_validate(
            study.evals.model_dump() | {"benchmarks": ("held_out_sum",), "engine": engine, "max_new_tokens": 24}
        )
        out = tmp_path / engine
        out.mkdir()
        data = {"held_out_sum": tmp_path / "held_out_sum"}
        evaluate_checkpoint(
            tmp_path / "model", engine, data, out, settings, 0, SilentReporter(), cache=tmp_path / "cache"
        )
        responses.append(pd.read_parquet(out / "samples/held_out_sum.parquet")["response"].tolist())
    assert responses[0] == responses[1]
    assert len(set(responses[0])) > 1
