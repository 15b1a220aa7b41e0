"""A tiny causal LM of the embedded world, untrained, and preferences that a glance at the answer decides."""

from pathlib import Path

import pytest

from bai_pipeline.synthetic.olmoe import build_olmoe
from bai_pipeline.synthetic.tokenizer import build_tokenizer
from bai_pipeline.tables import Row, write_table
from tests import tiny
from tests.tiny import MODEL

TRAINING = tiny.TRAINING.model_copy(update={"steps": 20, "adam_beta2": 0.999, "aux_loss_coef": 0.0, "max_length": 32})


def question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def preference(number: int) -> Row:
    return {
        "id": str(number),
        "prompt": question(f"max a {number % 7} b {number % 5}"),
        "chosen": "ok " * (number % 3) + "ans 7",
        "rejected": "ok " * (number % 2) + "ans 3",
    }


@pytest.fixture(scope="session")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("init")
    tokenizer = build_tokenizer(MODEL.max_position_embeddings)
    build_olmoe(MODEL, tokenizer, 0).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    write_table([preference(number) for number in range(40)], tmp_path / "preferences.parquet")
    return tmp_path / "preferences.parquet"
