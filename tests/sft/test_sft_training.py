import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bai_pipeline.errors import CheckpointError, TrainingError
from bai_pipeline.loading import load_tokenizer
from bai_pipeline.progress import SilentReporter
from bai_pipeline.settings import TrainingSettings
from bai_pipeline.sft.trainer import router_loss, training_arguments
from bai_pipeline.sft.training import finetune, pretrain
from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from tests.sft.conftest import documents
from tests.tiny import MODEL, TRAINING

LONGER = TRAINING.model_copy(update={"steps": 30})


class Recorder(SilentReporter):
    """Remembers progress."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.numbers: list[dict[str, float]] = []

    def progress(self, done: int, total: int, **numbers: float) -> None:
        self.steps.append(done)
        self.numbers.append({**numbers, "total": total})


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_pretraining_leaves_a_checkpoint_with_tokenizer_and_a_clean_config(base: Path) -> None:
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    } <= {file.name for file in base.iterdir()}
    assert not any(file.suffix in (".bin", ".pt", ".pth") for file in base.iterdir())
    config = json.loads((base / "config.json").read_text())
    assert config["architectures"] == ["OlmoeForCausalLM"]
    assert config["output_router_logits"] is False
    assert config["use_cache"] is True
    assert config["dtype"] == "float32"
    generation = json.loads((base / "generation_config.json").read_text())
    assert [generation[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 1, 2]
    assert AutoTokenizer.from_pretrained(base).chat_template


def test_training_is_the_same_to_the_byte_for_the_same_seed_only(tmp_path: Path, chats: Path, base: Path) -> None:
    data = documents(tmp_path / "documents.parquet")
    results = []
    for number, seed in enumerate((0, 0, 1)):
        directories = tmp_path / f"base{number}", tmp_path / f"sft{number}"
        for directory in directories:
            directory.mkdir()
        pretrain(data, directories[0], MODEL, TRAINING, seed, SilentReporter())
        finetune(base, chats, directories[1], TRAINING, seed, SilentReporter())
        results.append([files(directory) for directory in directories])
    assert results[0] == results[1]
    assert files(base) == results[0][0]
    for first, other in zip(results[0], results[2], strict=True):
        assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_the_loss_falls_and_progress_is_reported_to_the_end(
    tmp_path: Path, chats: Path, base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = Recorder()
    metrics = finetune(base, chats, tmp_path, LONGER, 0, report)
    assert float(metrics["final_loss"]) < 0.5 * float(metrics["first_loss"])
    assert report.steps[-1] == report.numbers[-1]["total"] == metrics["steps"] == 30
    assert set(report.numbers[0]) == {"loss", "learning_rate", "total"}
    assert metrics["examples"] == 10
    assert metrics["learned_tokens"] == 10 * 3 + (3 * 1 + 3 * 2)  # "ans N <eos>", and "ok" once or twice
    assert capfd.readouterr().out == ""


def test_the_learning_rate_warms_up_linearly_and_falls_to_a_tenth(tmp_path: Path) -> None:
    report = Recorder()
    settings = TRAINING.model_copy(update={"steps": 12, "warmup_steps": 4})
    pretrain(documents(tmp_path / "documents.parquet"), tmp_path, MODEL, settings, 0, report)
    peak = settings.learning_rate
    rates = [numbers["learning_rate"] for numbers in report.numbers]
    assert rates[:4] == pytest.approx([0.0, peak / 4, peak / 2, peak * 3 / 4])
    halfway = 4 + (12 - 4) // 2
    assert rates[4] == pytest.approx(peak)
    assert rates[halfway] == pytest.approx(0.1 * peak + 0.9 * peak / 2)
    last = 0.1 + 0.9 * (1 + math.cos(math.pi * 7 / 8)) / 2
    assert rates[-1] == pytest.approx(last * peak)


def test_finetuning_learns_nothing_from_prompts(tmp_path: Path, base: Path, chats: Path) -> None:
    metrics = finetune(
        base, chats, tmp_path, TRAINING.model_copy(update={"steps": 1, "aux_loss_coef": 0.0}), 0, SilentReporter()
    )
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    # a batch of four is drawn from ten; the mean loss of answer tokens over all ten brackets it
    losses = []
    for n in range(10):
        answer = "ok " * (n % 3) + f"ans {n} <eos>"
        ids = torch.tensor([tokenizer(f"<bos> <user> sum a {n} b 0 <asst> {answer}")["input_ids"]])
        logprobs = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        losses += [-value for value in logprobs[-len(answer.split()) :].tolist()]
    assert min(losses) < float(metrics["first_loss"]) < max(losses)
    assert float(metrics["first_loss"]) == pytest.approx(sum(losses) / len(losses), rel=0.1)


def test_a_chat_template_of_the_study_replaces_the_tokenizers_own(tmp_path: Path, chats: Path, base: Path) -> None:
    template = (
        "<bos>{% for m in messages %} {{ 'hmm' if m.role == 'user' else 'so' }} {{ m.content }}"
        "{{ ' <eos>' if m.role == 'assistant' }}{% endfor %}{{ ' so' if add_generation_prompt }}"
    )
    finetune(base, chats, tmp_path, TRAINING.model_copy(update={"steps": 1}), 0, SilentReporter(), template)
    text = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "1"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<bos> hmm 1 so"


def test_a_finetuned_model_keeps_its_bases_dtype_and_config(tmp_path: Path, chats: Path, base: Path) -> None:
    half = tmp_path / "half"
    out = tmp_path / "out"
    out.mkdir()
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base).save_pretrained(half)
    finetune(half, chats, out, TRAINING, 0, SilentReporter())
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "config.json").read_text()) == json.loads((half / "config.json").read_text())


def test_a_base_that_lacks_a_tensor_is_refused(tmp_path: Path, base: Path, chats: Path) -> None:
    shutil.copytree(base, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, weights)
    with pytest.raises(CheckpointError, match=r"damaged, got them without lm_head\.weight$"):
        finetune(tmp_path / "damaged", chats, tmp_path, TRAINING, 0, SilentReporter())


def test_a_base_without_chat_template_or_padding_token_is_refused(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "no_template")
    with pytest.raises(CheckpointError, match="no_template has no chat template"):
        load_tokenizer(tmp_path / "no_template")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "no_padding")
    with pytest.raises(CheckpointError, match="expected a padding token other than the end token '<eos>', got '<eos>'"):
        load_tokenizer(tmp_path / "no_padding", "{{ messages }}")


def test_a_batch_larger_than_the_data_and_one_that_ranks_cannot_share_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="expected at least batch_size = 4 examples, got 3"):
        training_arguments(TRAINING, 3, 0, tmp_path, None)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(TrainingError, match="batch_size 4 does not divide among 3 ranks"):
        training_arguments(TRAINING, 100, 0, tmp_path, None)


def test_a_loss_that_is_not_finite_stops_the_training_and_writes_nothing(tmp_path: Path) -> None:
    wild = TrainingSettings(
        **{**TRAINING.model_dump(), "learning_rate": 1e30, "warmup_steps": 0, "max_grad_norm": 1e30}
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d of 8; no model was written"):
        pretrain(documents(tmp_path / "documents.parquet"), tmp_path / "out", MODEL, wild, 0, SilentReporter())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_router_loss_is_added_within_the_block_only() -> None:
    model = build_olmoe(MODEL, build_tokenizer(), 0)
    ids = torch.arange(8)[None]
    plain = model(ids, labels=ids).loss
    with router_loss(model, 0.5):
        outputs = model(ids, labels=ids)
        assert outputs.loss.item() == pytest.approx(plain.item() + 0.5 * outputs.aux_loss.item())
    assert model(ids, labels=ids).loss == plain
    assert model.config.output_router_logits is False
    with router_loss(model, 0.0):
        assert model(ids, labels=ids).loss == plain


def test_a_router_loss_for_a_model_without_router_is_refused() -> None:
    dense = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with (
        pytest.raises(TrainingError, match="LlamaForCausalLM has no router; set aux_loss_coef to 0"),
        router_loss(dense, 0.1),
    ):
        pass
