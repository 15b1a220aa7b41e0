"""Checkpoints to merge: a base and two SFT models in the shape of OLMoE-1B-7B with fewer layers, bf16, sharded."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

SPECIAL: Final = ("<pad>", "<bos>", "<eos>", "<unk>")
COMPLETE: Final = "complete.json"
"""Written last: the shape of what is there."""


@dataclass(frozen=True)
class Shape:
    """The sizes of an OLMoE (https://huggingface.co/allenai/OLMoE-1B-7B-0924, config.json)."""

    hidden: int = 2048
    intermediate: int = 1024
    experts: int = 64
    layers: int = 16
    vocabulary: int = 50304
    shard_bytes: int = 500_000_000

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes as OLMoE's own checkpoints have them, one tensor an expert."""
        hidden, intermediate = self.hidden, self.intermediate
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                yield f"{prefix}.self_attn.{name}.weight", (hidden, hidden)
            for name in ("self_attn.q_norm", "self_attn.k_norm", "input_layernorm", "post_attention_layernorm"):
                yield f"{prefix}.{name}.weight", (hidden,)
            yield f"{prefix}.mlp.gate.weight", (self.experts, hidden)
            for expert in range(self.experts):
                yield f"{prefix}.mlp.experts.{expert}.gate_proj.weight", (intermediate, hidden)
                yield f"{prefix}.mlp.experts.{expert}.up_proj.weight", (intermediate, hidden)
                yield f"{prefix}.mlp.experts.{expert}.down_proj.weight", (hidden, intermediate)
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocabulary, hidden)

    @property
    def nbytes(self) -> int:
        return 2 * sum(prod(shape) for _, shape in self.tensors())

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": self.experts,
            "num_experts_per_tok": min(8, self.experts),
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 4096,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": False,
            "bos_token_id": SPECIAL.index("<bos>"),
            "eos_token_id": SPECIAL.index("<eos>"),
            "pad_token_id": SPECIAL.index("<pad>"),
            "torch_dtype": "bfloat16",
        }


@dataclass(frozen=True)
class Trio:
    """Directories of the three checkpoints and what they hold."""

    base: Path
    instruct: Path
    reasoning: Path
    shape: Shape

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.base, self.instruct, self.reasoning

    @property
    def files(self) -> list[Path]:
        return [file for path in self.paths for file in sorted(path.glob("*.safetensors"))]


def shape_for(gigabytes: float) -> Shape:
    """The shape whose size comes closest: by layers of 64 experts, or by the experts of one layer. Below 0.4 GB, where
    OLMoE's embeddings alone are larger, by layers of a narrow model, for tests of the benchmark itself."""
    narrow = gigabytes < 0.4
    full = Shape(hidden=256, intermediate=128, vocabulary=5120, shard_bytes=5_000_000) if narrow else Shape()
    one = replace(full, layers=1).nbytes
    layers = 1 + round((gigabytes * 1e9 - one) / (replace(full, layers=2).nbytes - one))
    if layers >= 1 and (layers > 1 or one <= 1.5e9 * gigabytes):
        return replace(full, layers=layers)
    few = [replace(full, layers=1, experts=experts) for experts in range(2, full.experts + 1)]
    return min(few, key=lambda shape: abs(shape.nbytes - gigabytes * 1e9))


def write_trio(directory: Path, shape: Shape) -> Trio:
    """The checkpoints in `directory`; those of an earlier call are used again."""
    trio = Trio(directory / "base", directory / "instruct_sft", directory / "reasoning_sft", shape)
    complete = directory / COMPLETE
    if complete.is_file() and json.loads(complete.read_text()) == asdict(shape):
        return trio
    complete.unlink(missing_ok=True)
    for path in trio.paths:
        path.mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():
            file.unlink()
        (path / "config.json").write_text(json.dumps(shape.config(), indent=1))
        _write_tokenizer(path)
    _write_tensors(trio)
    complete.write_text(json.dumps(asdict(shape)))
    return trio


def _write_tensors(trio: Trio) -> None:
    """The base is normal with deviation 0.02 and the SFT models differ from it by a tenth of that."""
    import torch
    from safetensors.torch import save_file

    numbers = torch.Generator().manual_seed(0)
    shards = _shards(trio.shape)
    names = {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, 1)}
    for file, shard in names.items():
        base = {name: torch.randn(shape, generator=numbers).mul_(0.02) for name, shape in shard.items()}
        for path in trio.paths:
            delta = 0.0 if path == trio.base else 0.002
            tensors = {
                name: tensor.add(torch.randn(tensor.shape, generator=numbers), alpha=delta).bfloat16()
                for name, tensor in base.items()
            }
            save_file(tensors, path / file, metadata={"format": "pt"})
    index = {
        "metadata": {"total_size": trio.shape.nbytes},
        "weight_map": {name: file for file, shard in names.items() for name in shard},
    }
    for path in trio.paths:
        (path / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _shards(shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    shards: list[dict[str, tuple[int, ...]]] = []
    room = 0
    for name, size in shape.tensors():
        nbytes = 2 * prod(size)
        if nbytes > room:
            shards.append({})
            room = shape.shard_bytes
        shards[-1][name] = size
        room -= nbytes
    return shards


def _write_tokenizer(path: Path) -> None:
    """A word-level tokenizer of a few tokens: what it says does not matter, only that it loads."""
    words = [*SPECIAL, *(f"w{n}" for n in range(60))]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "model_max_length": 4096,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
