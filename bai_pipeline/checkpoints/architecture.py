"""What config.json and generation_config.json say of two checkpoints that are to be combined."""

from collections.abc import Mapping
from typing import Any, Final

from bai_pipeline.checkpoints.checkpoint import Checkpoint
from bai_pipeline.checkpoints.directory import CONFIG_FILE, is_there, read_json_object
from bai_pipeline.checkpoints.listing import Findings, short

GENERATION_CONFIG_FILE: Final = "generation_config.json"

ARCHITECTURE_KEYS: Final = (
    "model_type",
    "architectures",
    "num_labels",
    # sizes; vocab_size is compared with the tensors' rows
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    # experts and their router
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "scoring_func",
    "topk_method",
    "topk_group",
    "n_group",
    "routed_scaling_factor",
    "first_k_dense_replace",
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

_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")
_NOT_GENERATION = ("transformers_version", "_from_model_config")
_ABSENT = object()


def vocabulary_size(checkpoint: Checkpoint) -> int | None:
    """`vocab_size` of the config, when it has one."""
    size = _flat(checkpoint.config).get("vocab_size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def says_tied(checkpoint: Checkpoint) -> bool | None:
    """`tie_word_embeddings` of the config; None when it leaves that to the architecture."""
    tied = _flat(checkpoint.config).get("tie_word_embeddings")
    return tied if isinstance(tied, bool) else None


def compare_configs(left: str, one: Checkpoint, right: str, other: Checkpoint) -> Findings:
    """config.json. A key that only one file has is noted: versions of a library write different defaults."""
    found = Findings()
    ours, their = _flat(one.config), _flat(other.config)
    _spell_alike(ours, their)
    for key in (*ARCHITECTURE_KEYS, *NOTED_KEYS):
        mine, theirs = ours.get(key, _ABSENT), their.get(key, _ABSENT)
        if mine == theirs:
            continue
        line = f"{CONFIG_FILE}: {key} is {_show(mine)} in {left}, {_show(theirs)} in {right}"
        known = mine is not _ABSENT and theirs is not _ABSENT
        (found.differences if known and key in ARCHITECTURE_KEYS else found.notes).append(line)
    return found


def compare_generation(left: str, one: Checkpoint, right: str, other: Checkpoint) -> Findings:
    """generation_config.json, whose keys change no weight."""
    ours, their = _generation(one), _generation(other)
    return Findings(
        notes=[
            f"{GENERATION_CONFIG_FILE}: {key} is {_show(ours.get(key, _ABSENT))} in {left}, "
            f"{_show(their.get(key, _ABSENT))} in {right}"
            for key in sorted(ours.keys() | their.keys())
            if ours.get(key, _ABSENT) != their.get(key, _ABSENT)
        ]
    )


def _generation(checkpoint: Checkpoint) -> dict[str, Any]:
    if not is_there(checkpoint.path / GENERATION_CONFIG_FILE):
        return {}
    config = read_json_object(checkpoint.path, GENERATION_CONFIG_FILE)
    return {key: value for key, value in config.items() if key not in _NOT_GENERATION}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose language model is nested, and one of transformers 5 with rope_parameters, are made the same."""
    nested = config.get("text_config")
    flat = {**nested, **config} if isinstance(nested, dict) else dict(config)
    parameters = flat.pop("rope_parameters", None)
    if isinstance(parameters, dict):
        scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
        flat["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
        if "rope_theta" in parameters:
            flat["rope_theta"] = parameters["rope_theta"]
    return flat


def _spell_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """transformers 5 writes num_local_experts where 4 wrote num_experts: the first's spelling is used for both."""
    mine = [key for key in _EXPERT_COUNTS if key in one]
    theirs = [key for key in _EXPERT_COUNTS if key in other]
    if len(mine) == len(theirs) == 1:
        other[mine[0]] = other.pop(theirs[0])


def _show(value: object) -> str:
    return "absent" if value is _ABSENT else short(value)
