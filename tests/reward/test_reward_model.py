import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, OlmoeConfig, PreTrainedModel

from bai_pipeline.errors import CheckpointError
from bai_pipeline.reward.model import (
    OlmoeForSequenceClassification,
    at_last_token,
    check_reward_config,
    load_reward_model,
    raw_token_scores,
    token_scores,
)
from tests.tiny import MODEL

IDS = torch.tensor([[1, 5, 6, 7, 0, 0], [1, 8, 9, 10, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])


def reward_model(**config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": 47,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "num_labels": 1,
    }
    model = OlmoeForSequenceClassification(  # type: ignore[no-untyped-call]
        OlmoeConfig(**MODEL.model_dump(), **options, **config)
    )
    model.train(False)
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    reward_model(score_shift=0.5, score_scale=2.0).save_pretrained(tmp_path)
    return tmp_path


def edit_config(path: Path, **changes: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def test_auto_classes_build_and_load_olmoe_reward_models(saved: Path) -> None:
    assert type(AutoModelForSequenceClassification.from_pretrained(saved)) is OlmoeForSequenceClassification
    assert type(load_reward_model(saved)) is OlmoeForSequenceClassification
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["OlmoeForSequenceClassification"]


@pytest.mark.parametrize("requested", [None, "grouped_mm", "eager"])
def test_experts_run_as_requested_and_grouped_by_default(saved: Path, requested: str | None) -> None:
    options = {} if requested is None else {"experts_implementation": requested}
    model = AutoModelForSequenceClassification.from_pretrained(saved, **options)
    expected = requested or "grouped_mm"
    assert model.config._experts_implementation == expected
    assert {layer.mlp.experts.config._experts_implementation for layer in model.model.layers} == {expected}


def test_experts_implementations_agree(saved: Path) -> None:
    eager, grouped = (
        AutoModelForSequenceClassification.from_pretrained(saved, experts_implementation=name).eval()
        for name in ("eager", "grouped_mm")
    )
    torch.testing.assert_close(token_scores(eager, IDS, MASK), token_scores(grouped, IDS, MASK))


def test_token_scores_are_the_shifted_and_scaled_head_output(saved: Path) -> None:
    model = load_reward_model(saved)
    scores = token_scores(model, IDS, MASK)
    assert scores.shape == (2, 6)
    torch.testing.assert_close(scores, (raw_token_scores(model, IDS, MASK) - 0.5) / 2.0)
    pooled = model(IDS, attention_mask=MASK).logits[:, 0]
    torch.testing.assert_close(at_last_token(scores, MASK), (pooled - 0.5) / 2.0)


def test_scores_are_raw_without_normalisation_in_the_config() -> None:
    model = reward_model()
    torch.testing.assert_close(token_scores(model, IDS, MASK), raw_token_scores(model, IDS, MASK))


def test_the_score_of_a_prefix_does_not_depend_on_what_follows() -> None:
    model = reward_model()
    whole, prefix = token_scores(model, IDS, MASK), token_scores(model, IDS[:, :3], MASK[:, :3])
    torch.testing.assert_close(whole[:, :3], prefix)


def test_the_last_token_is_the_last_attended_one_with_padding_on_either_side() -> None:
    values = torch.arange(8.0).reshape(2, 4)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert at_last_token(values, mask).tolist() == [1.0, 7.0]


def test_gradients_reach_the_head_and_the_body() -> None:
    model = reward_model()
    token_scores(model, IDS, MASK).sum().backward()  # type: ignore[no-untyped-call]
    for module in (model.score, model.get_input_embeddings()):
        assert isinstance(module, nn.Linear | nn.Embedding)
        assert module.weight.grad is not None
        assert module.weight.grad.abs().sum() > 0


def test_a_directory_without_config_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no config\.json in"):
        load_reward_model(tmp_path)


def test_a_causal_language_model_is_no_reward_model(init: Path) -> None:
    with pytest.raises(CheckpointError, match="with 1 label, got OlmoeForCausalLM with 2 in"):
        load_reward_model(init)


def test_a_classifier_with_two_labels_is_no_reward_model(saved: Path) -> None:
    edit_config(saved, id2label={"0": "BAD", "1": "GOOD"})
    with pytest.raises(CheckpointError, match="got OlmoeForSequenceClassification with 2 in"):
        check_reward_config(saved)


@pytest.mark.parametrize("scale", [0, -1.0, "2", True])
def test_a_scale_that_is_not_positive_is_refused(saved: Path, scale: object) -> None:
    edit_config(saved, score_scale=scale)
    with pytest.raises(CheckpointError, match=f"expected a score_scale above 0, got {scale!r}"):
        check_reward_config(saved)


@pytest.mark.parametrize("shift", ["0.5", None, True, float("nan"), float("inf")])
def test_a_shift_that_is_no_finite_number_is_refused(saved: Path, shift: object) -> None:
    edit_config(saved, score_shift=shift)
    with pytest.raises(
        CheckpointError, match=rf"expected a finite number as score_shift, got {shift!r} in .*config\.json"
    ):
        check_reward_config(saved)


def test_a_reward_model_without_its_head_is_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if name != "score.weight"}, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"got them without score\.weight$"):
        load_reward_model(saved)
