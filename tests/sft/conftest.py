"""Tables of a few words, and a tiny base model that was trained on them for a moment."""

from pathlib import Path

import pytest

from bai_pipeline.progress import SilentReporter
from bai_pipeline.settings import ModelSettings, TrainingSettings
from bai_pipeline.sft.training import pretrain
from bai_pipeline.tables import Row, write_table

MODEL = ModelSettings(
    num_hidden_layers=2,
    hidden_size=16,
    num_attention_heads=2,
    num_experts=4,
    num_experts_per_tok=2,
    intermediate_size=16,
    max_position_embeddings=64,
)
TRAINING = TrainingSettings(
    steps=8,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    weight_decay=0.01,
    adam_beta2=0.98,
    max_grad_norm=1.0,
    aux_loss_coef=0.01,
    max_length=16,
)


def documents(path: Path, texts: list[str] | None = None) -> Path:
    """A table of documents; by default of 60 sums."""
    texts = [f"{a} + {b} = {(a + b) % 10} , ok" for a in range(10) for b in range(6)] if texts is None else texts
    write_table([{"id": str(number), "text": text} for number, text in enumerate(texts)], path)
    return path


def conversation(question: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("base")
    (root / "model").mkdir()
    pretrain(documents(root / "documents.parquet"), root / "model", MODEL, TRAINING, 0, SilentReporter())
    return root / "model"


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Ten conversations of unequal lengths."""
    path = tmp_path / "chats.parquet"
    write_table([conversation(f"sum a {n} b 0", "ok " * (n % 3) + f"ans {n}") for n in range(10)], path)
    return path
