"""Small checkpoints written by the reference implementation of safetensors."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

CONFIG = {"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "vocab_size": 8, "num_experts": 4}
VOCAB = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4}

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def tensors() -> dict[str, Array]:
    """What a checkpoint holds unless it is told otherwise."""
    rng = np.random.default_rng(0)
    return {
        "embed.weight": rng.standard_normal((8, 3)).astype(np.float32),
        "gate.weight": rng.standard_normal((4, 3)).astype(np.float16),
        "norm.weight": rng.standard_normal(3).astype(np.float32),
        "scale": np.array(2.5, dtype=np.float32),
    }


@pytest.fixture
def make_checkpoint(tmp_path: Path, tensors: dict[str, Array]) -> Callable[..., Path]:
    """make_checkpoint(name, content=, config=, vocab=, shards=[[names], …], **tokenizer_config) -> directory."""

    def make(
        name: str = "model",
        *,
        content: Mapping[str, Array] = tensors,
        config: Mapping[str, Any] = CONFIG,
        vocab: Mapping[str, int] | None = VOCAB,
        shards: Sequence[Sequence[str]] | None = None,
        **tokenizer_config: Any,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        if shards is None:
            save_file(dict(content), directory / "model.safetensors", metadata={"format": "pt"})
        else:
            weight_map: dict[str, str] = {}
            for number, names in enumerate(shards, 1):
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                save_file({key: content[key] for key in names}, directory / file, metadata={"format": "pt"})
                weight_map |= dict.fromkeys(names, file)
            index = {"metadata": {}, "weight_map": weight_map}
            (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        (directory / "config.json").write_text(json.dumps(dict(config)))
        if vocab is not None:
            tokenizer = {"model": {"type": "WordLevel", "vocab": dict(vocab)}, "added_tokens": []}
            (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
            (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
        return directory

    return make
