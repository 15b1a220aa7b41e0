"""MMLU's real questions: the same answers as lm-eval's own HFLM gives."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import lm_eval.evaluator
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from bai_pipeline.evals.engines.model import open_model_engine
from bai_pipeline.evals.journal import Journal
from bai_pipeline.evals.lm import EngineLM
from bai_pipeline.evals.registry.mmlu import MMLU
from benchmarks.real_mmlu import real_questions, with_examples, write_checkpoint

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

OLMOE = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 2048,
}


@pytest.fixture
def quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    yield
    logging.getLogger("lm_eval").setLevel(logging.NOTSET)


@pytest.mark.parametrize("shots", [0, 5])
def test_the_options_chosen_are_those_that_hflm_chooses(tmp_path: Path, quiet: None, shots: int) -> None:
    rows = real_questions()
    assert len(rows) == 14042  # all test questions of MMLU
    write_checkpoint(tmp_path / "model", rows, vocabulary=4096, **OLMOE)
    test, dev = with_examples(rows, 600)
    splits = {"test": test, "dev": dev}
    questions = MMLU.questions(splits)
    chosen = []
    for lm in (ours(tmp_path), hflm(tmp_path / "model")):
        tasks = MMLU.tasks(questions, splits, replace(MMLU.asking, shots=shots))
        loaded = TaskManager(include_defaults=False).load([task.config for task in tasks])
        results = lm_eval.evaluator.evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
        samples = [sample for task in tasks for sample in results["samples"][task.config["task"]]]
        chosen.append([(sample["doc"]["question"], sample["acc"], best(sample)) for sample in samples])
    assert chosen[0] == chosen[1]
    right = sum(acc for _, acc, _ in chosen[0])
    assert 0 < right < len(questions)
    assert len({letter for _, _, letter in chosen[0]}) > 1


def best(sample: dict[str, Any]) -> int:
    likelihoods = [response[0][0] for response in sample["resps"]]
    return likelihoods.index(max(likelihoods))


def ours(work: Path) -> EngineLM:
    return EngineLM(open_model_engine(work / "model", batch_size=16), Journal(work / "journal"), chat=False, seed=0)


def hflm(model: Path) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    return HFLM(pretrained=loaded, tokenizer=AutoTokenizer.from_pretrained(model), batch_size=4, device="cpu")
