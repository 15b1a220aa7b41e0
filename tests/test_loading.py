"""Checkpoints whose tensors are not exactly the model's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

import bai_pipeline.reward.model  # noqa: F401  # OLMoE with a score head
from bai_pipeline.errors import CheckpointError
from bai_pipeline.loading import LANGUAGE_HEAD, SCORE_HEAD, load_model
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from tests.tiny import MODEL

Tensors = dict[str, Tensor]

EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    build_olmoe(MODEL, build_tokenizer(64), seed=0).save_pretrained(tmp_path / "olmoe")
    return tmp_path / "olmoe"


def edit(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def load(path: Path) -> PreTrainedModel:
    return load_model(AutoModelForCausalLM, path)


def test_a_whole_checkpoint_is_loaded_as_it_is(checkpoint: Path) -> None:
    assert torch.equal(
        load(checkpoint).state_dict()[LANGUAGE_HEAD], load_file(checkpoint / "model.safetensors")[LANGUAGE_HEAD]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.gate.weight"), r"without model\.layers\.1\.mlp\.gate\.weight$"),
        (lambda t: t.pop(LANGUAGE_HEAD), r"without lm_head\.weight$"),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), r"with model\.extra\.weight, which it has no"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(8)}),
            r"with model\.norm\.weight \[8\] instead of \[16\]$",
        ),
        (lambda t: t.pop(EXPERT), r"do not combine into model\.layers\.0\.mlp\.experts\.gate_up_proj"),
        (
            lambda t: t.pop(EXPERT.replace("up", "down")),
            r"with model\.layers\.0\.mlp\.experts\.down_proj \[3, 16, 16\] instead of \[4, 16, 16\]$",
        ),
        (
            lambda t: [t.update({f"module.{name}": t.pop(name)}) for name in list(t)],
            r"without lm_head\.weight, .* and 20 more; with module\.lm_head\.weight, .* and 20 more, which",
        ),
    ],
)
def test_tensors_that_are_not_the_model_s_are_named(
    checkpoint: Path, change: Callable[[Tensors], object], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(checkpoint, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load(checkpoint)
    assert str(checkpoint) in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_score_head_may_replace_the_language_head_only_where_it_is_said(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"without score\.weight; with lm_head\.weight, which"):
        load_model(AutoModelForSequenceClassification, checkpoint, num_labels=1)
    model = load_model(
        AutoModelForSequenceClassification, checkpoint, missing={SCORE_HEAD}, unexpected={LANGUAGE_HEAD}, num_labels=1
    )
    assert "score.weight" in model.state_dict()


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_not_missing(tmp_path: Path, tied: bool) -> None:
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    edit(tmp_path, lambda tensors: tensors.pop(LANGUAGE_HEAD, None))
    if tied:
        assert torch.equal(
            *(load(tmp_path).state_dict()[name] for name in (LANGUAGE_HEAD, "model.embed_tokens.weight"))
        )
    else:
        with pytest.raises(CheckpointError, match=r"without lm_head\.weight"):
            load(tmp_path)


def test_the_log_of_transformers_is_left_as_it_was(checkpoint: Path) -> None:
    import logging

    logger = logging.getLogger("transformers.modeling_utils")
    before = (logger.level, logger.propagate, list(logger.handlers))
    load(checkpoint)
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
