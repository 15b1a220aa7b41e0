"""Small OLMoE-shaped checkpoints of three models, written by the reference implementation of safetensors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bai_pipeline.merging import Recipe

CONFIG = {
    "model_type": "olmoe",
    "architectures": ["OlmoeForCausalLM"],
    "vocab_size": 16,
    "num_experts": 2,
    "dtype": "bfloat16",
}
VOCAB = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4}


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """make_model(name, seed=, dtype=, shards=[[names], …], **tensors that replace or, when None, remove)."""

    def make(
        name: str,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        shards: Sequence[Sequence[str]] | None = None,
        config: dict[str, Any] = CONFIG,
        vocab: dict[str, int] = VOCAB,
        changes: dict[str, torch.Tensor | None] | None = None,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        generator = torch.Generator().manual_seed(seed)
        shapes = {"embed": (16, 8), "experts.0": (8, 6), "experts.1": (8, 6), "norm": (8,), "scale": ()}
        tensors = {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}
        tensors = {key: value for key, value in (tensors | (changes or {})).items() if value is not None}
        if shards is None:
            save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        else:
            weight_map: dict[str, str] = {}
            for number, names in enumerate(shards, 1):
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                save_file({key: tensors[key] for key in names}, directory / file, metadata={"format": "pt"})
                weight_map |= dict.fromkeys(names, file)
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        tokenizer = {"model": {"type": "WordLevel", "vocab": vocab}, "added_tokens": []}
        (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
        (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
        (directory / "chat_template.jinja").write_text("{{ messages }}")
        (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "from": name}))
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return make


@pytest.fixture
def merge_into(tmp_path: Path) -> Callable[..., Path]:
    """merge_into("out", recipe, models, tokenizer_from=) -> the directory."""
    from bai_pipeline.merging.engine import merge
    from bai_pipeline.progress import SilentReporter

    def run(name: str, recipe: Recipe, models: dict[str, Path], **options: Any) -> Path:
        out = tmp_path / name
        out.mkdir()
        tokenizer_from = options.pop("tokenizer_from", recipe.models[-1])
        merge(recipe, models, out, tokenizer_from, "1", SilentReporter(), **options)
        return out

    return run
