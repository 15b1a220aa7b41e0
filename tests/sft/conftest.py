"""Tables of a few words, and a tiny base model that was trained on them for a moment."""

from pathlib import Path

import pytest

from bai_pipeline.progress import SilentReporter
from bai_pipeline.sft.training import pretrain
from bai_pipeline.tables import Row, write_table
from tests.tiny import MODEL, TRAINING


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
