"""Do checkpoints fit together? Compared with the first: tensors, architecture, tokenizer; every difference at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bai_pipeline.checkpoints.checkpoint import Checkpoint
from bai_pipeline.checkpoints.directory import CONFIG_FILE
from bai_pipeline.checkpoints.vocabulary import (
    Vocabulary,
    read_vocabulary,
    vocabulary_differences,
    vocabulary_notes,
)
from bai_pipeline.errors import FitError

ARCHITECTURE_KEYS: Final = (
    "model_type",
    "architectures",
    "num_labels",
    # sizes
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    # experts
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    # arithmetic
    "hidden_act",
    "rms_norm_eps",
    "layer_norm_eps",
    "attention_bias",
    "mlp_bias",
    "clip_qkv",
    "sliding_window",
    "rope_theta",
    "rope_scaling",
    "quantization_config",
)
"""Keys of config.json that change what the same weights compute."""

NOTED_KEYS: Final = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
"""Keys that may differ between a base model and what was trained from it."""

_LISTED = 30
_ABSENT = object()


@dataclass(frozen=True)
class FitReport:
    """`differences` forbid combining the checkpoints; `notes` are worth knowing."""

    differences: tuple[str, ...]
    notes: tuple[str, ...]


def check_fit(models: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    """Make sure that the models can be combined tensor by tensor, and return the notes.

    Raises:
        FitError: they cannot; the message lists the differences, the first 30 of them in full.
    """
    report = compare(models)
    if report.differences:
        found, more = report.differences, len(report.differences) - _LISTED
        lines = [f"\n  - {line}" for line in found[:_LISTED]] + ([f"\n  … and {more} more"] if more > 0 else [])
        raise FitError(
            f"checkpoints do not fit together ({', '.join(models)}), {len(found)} difference(s); nothing was written:"
            + "".join(lines)
        )
    return report.notes


def compare(models: Mapping[str, Checkpoint]) -> FitReport:
    """Every difference of the models from the first of them."""
    vocabularies = {name: read_vocabulary(checkpoint.path) for name, checkpoint in models.items()}
    differences = [line for name in models for line in _overflow(name, models[name], vocabularies[name])]
    notes: list[str] = []
    first, *others = models
    for other in others:
        fatal, noted = _config(first, models[first].config, other, models[other].config)
        differences += fatal
        notes += noted
        one, two = vocabularies[first], vocabularies[other]
        if one is None or two is None:
            absent = first if one is None else other
            notes.append(f"tokenizer: none readable in {absent}; its vocabulary was not compared")
        else:
            differences += vocabulary_differences(first, one, other, two)
            notes += vocabulary_notes(first, one, other, two)
        differences += _tensors(first, models[first], other, models[other])
    return FitReport(tuple(differences), tuple(notes))


def _tensors(left: str, one: Checkpoint, right: str, other: Checkpoint) -> Iterator[str]:
    for name in sorted(one.tensors.keys() - other.tensors.keys()):
        yield f"tensor {name} is missing in {right} (it is in {left}, {one.tensors[name].file.name})"
    for name in sorted(other.tensors.keys() - one.tensors.keys()):
        yield f"tensor {name} is missing in {left} (it is in {right}, {other.tensors[name].file.name})"
    for name, mine in one.tensors.items():
        theirs = other.tensors.get(name)
        if theirs is None:
            continue
        if mine.shape != theirs.shape:
            yield f"tensor {name} has shape {list(mine.shape)} in {left}, {list(theirs.shape)} in {right}"
        if mine.dtype != theirs.dtype:
            yield f"tensor {name} has dtype {mine.dtype} in {left}, {theirs.dtype} in {right}"


def _config(left: str, one: Mapping[str, Any], right: str, other: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Differences and notes. A key that only one file has is noted: versions of a library write different defaults."""
    fatal: list[str] = []
    noted: list[str] = []
    one, other = _flat(one), _flat(other)
    for key in (*ARCHITECTURE_KEYS, *NOTED_KEYS):
        mine, theirs = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if mine == theirs:
            continue
        line = f"{CONFIG_FILE}: {key} is {_show(mine)} in {left}, {_show(theirs)} in {right}"
        known = mine is not _ABSENT and theirs is not _ABSENT
        (fatal if known and key in ARCHITECTURE_KEYS else noted).append(line)
    return fatal, noted


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_theta and rope_scaling as one rope_parameters: both spellings are made the same."""
    flat = dict(config)
    parameters = flat.pop("rope_parameters", None)
    if isinstance(parameters, dict):
        scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
        flat["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
        if "rope_theta" in parameters:
            flat["rope_theta"] = parameters["rope_theta"]
    return flat


def _overflow(name: str, checkpoint: Checkpoint, vocabulary: Vocabulary | None) -> Iterator[str]:
    rows = checkpoint.config.get("vocab_size")
    if vocabulary is not None and vocabulary.ids and isinstance(rows, int):
        token = max(vocabulary.ids, key=lambda token: vocabulary.ids[token])
        if vocabulary.ids[token] >= rows:
            yield f"tokenizer: token {token!r} of {name} has id {vocabulary.ids[token]}, but vocab_size is {rows}"


def _show(value: object) -> str:
    return "absent" if value is _ABSENT else repr(value)
