"""Malformed and hostile checkpoints: what is wrong, how it is made, what the error says."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bai_pipeline.errors import BaiPipelineError, CheckpointError, FitError
from bai_pipeline.merging import Recipe, bai_recipe
from tests.merging.conftest import CONFIG
from tests.merging.damage import (
    FIRST,
    INDEX,
    SECOND,
    SHARDED,
    WEIGHTS,
    Damage,
    content,
    edited,
    entry,
    flipped,
    header,
    link,
    longer,
    manifest,
    moved_out,
    nothing,
    padded,
    pickled,
    pickles_only,
    poisoned,
    raw_header,
    recorded,
    removed,
    renamed,
    shard_of,
    socket,
    sparse,
    special,
    templates_elsewhere,
    twice_sharded,
    vocabulary,
    zipped,
)

RECIPE = bai_recipe(0.5, {"instruct": 0.5, "reasoning": 0.5})
BASE_ONLY = bai_recipe(1.0, {"instruct": 0.5, "reasoning": 0.5})
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
CONFIG_FILE = "config.json"
NAN, INFINITY = float("nan"), float("inf")
NESTED = '{"a": ' + 200 * "[" + 200 * "]" + "}"


@dataclass(frozen=True)
class Hostile:
    """A checkpoint named reasoning_sft that is to be refused."""

    name: str
    damage: Damage
    says: str
    """Names the file in the directory, and the tensor where there is one."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """Options of `make_model`."""
    error: type[BaiPipelineError] = CheckpointError
    recipe: Recipe = RECIPE
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors that the other models have in addition."""


def row(name: str, damage: Damage, says: str, **made: Any) -> Hostile:
    return Hostile(name, damage, says, made)


def sharded(name: str, damage: Damage, says: str) -> Hostile:
    return Hostile(name, damage, says, SHARDED)


def unfit(name: str, says: str, damage: Damage = nothing, **made: Any) -> Hostile:
    return Hostile(name, damage, says, made, FitError)


def offsets(begin_end: list[Any]) -> Damage:
    return entry("norm", data_offsets=begin_end)


def shape(sizes: list[Any]) -> Damage:
    return entry("norm", shape=sizes)


def numbers(name: str, position: int, dtype: torch.dtype, value: float, recipe: Recipe = RECIPE) -> Hostile:
    says = f"{WEIGHTS}: tensor experts.1 of reasoning_sft: expected finite values, got NaN or infinity at flat position"
    return Hostile(name, nothing, f"{says} {position};", poisoned(dtype, position, value), recipe=recipe)


NORM, NO_JSON = f"{WEIGHTS}: tensor norm:", f"{WEIGHTS}: the header is not valid JSON"
INDEXED = f"{INDEX}: tensor norm: expected the name of a .safetensors file of the same directory, got "
NAMES = "expected a name of 1 to 1024 printable characters"
COUNTS = "must be non-negative integers"
ROWS: list[Hostile] = [
    # the header
    row("a header of no bytes", raw_header(b"", 0), NO_JSON),
    row("a header longer than the file", raw_header(b"{}", 2**40), f"{WEIGHTS}: the header length is 1099511627776"),
    row("a header of 2^63 bytes", raw_header(b"{}", 2**63), f"{WEIGHTS}: the header length is 9223372036854775808"),
    row("a header of -1 bytes", raw_header(b"{}", 2**64 - 1), f"{WEIGHTS}: the header length is 18446744073709551615"),
    row(
        "an empty file", content(WEIGHTS, ""), f"{WEIGHTS}: expected at least 8 bytes of header length, the file has 0"
    ),
    row("a file of 7 bytes", content(WEIGHTS, bytes(7)), f"{WEIGHTS}: expected at least 8 bytes of header length"),
    row("a header not in UTF-8", raw_header(b'{"\xff": 1}'), f"{NO_JSON}: 'utf-8'"),
    row("a header that is a list", raw_header(b"[]"), f"{WEIGHTS}: the header is a JSON list, expected an object"),
    row("no tensors", content(WEIGHTS, b"\2" + bytes(7) + b"{}"), f"{WEIGHTS}: expected tensors, it holds none"),
    row("nesting without end", raw_header(200_000 * b"["), f"{NO_JSON}: maximum recursion"),
    row("a nested entry", header(lambda h: h.update(norm=json.loads(NESTED))), f"{NORM} expected dtype"),
    row("a foreign key", entry("norm", strides=[1]), f"{NORM} expected dtype, shape and two data_offs"),
    unfit("10 MB of keys", f"tensor k000000{193 * 'x'} is missing in base_model", padded([0])),
    unfit("10 MB of output heads", f"tensor k000000{193 * 'x'} is missing in base_model", padded([16, 0])),
    row("10 MB of keys, one twice", padded([0], twice=True), f"{NO_JSON}: key 'k039999xxx"),
    # names
    unfit(
        "a name that is a path",
        f"tensor ../../etc/x is missing in base_model (it is in reasoning_sft, {WEIGHTS})",
        renamed("../../etc/x"),
    ),
    row("a name with NUL", renamed("sc\0ale"), f"{WEIGHTS}: tensor 'sc\\x00ale': {NAMES}, got 6"),
    row("a name that clears the screen", renamed("\x1b[2Jnorm"), f"{WEIGHTS}: tensor '\\x1b[2Jnorm': {NAMES}"),
    row("a name with half a surrogate pair", renamed("\ud800"), f"{WEIGHTS}: tensor '\\ud800': {NAMES}"),
    row("an empty name", renamed(""), f"{WEIGHTS}: tensor '': {NAMES}, got 0"),
    row("a name of 10,000 characters", renamed(10_000 * "x"), f"{WEIGHTS}: tensor '{119 * 'x'}…: {NAMES}, got 10000"),
    # offsets
    row("a negative offset", offsets([-16, 0]), f"{NORM} shape [8] and data_offsets [-16, 0] {COUNTS}"),
    row("a fractional offset", offsets([0.0, 16]), f"{NORM} shape [8] and data_offsets [0.0, 16] {COUNTS}"),
    row("a true offset", offsets([True, 17]), f"{NORM} shape [8] and data_offsets [True, 17] {COUNTS}"),
    row(
        "offsets beyond 2^64",
        offsets([2**64, 2**64 + 16]),
        f"{NORM} shape [8] and data_offsets [18446744073709551616, 18446744073709551632] {COUNTS}",
    ),
    row(
        "offsets beyond the file",
        entry("scale", data_offsets=[10**6, 10**6 + 2]),
        f"{WEIGHTS}: tensor scale: data_offsets [1000000, 1000002] leave a hole after 464",
    ),
    row(
        "offsets backwards", offsets([16, 0]), f"{NORM} BF16 of shape [8] takes 16 bytes, data_offsets [16, 0] hold -16"
    ),
    row("one offset", offsets([16]), f"{NORM} expected dtype, shape and two data_offsets"),
    row(
        "overlapping tensors",
        header(lambda h: h["experts.0"].update(h["embed"])),
        f"{WEIGHTS}: tensor experts.0: data_offsets [0, 256] overlap the tensor before it, which ends at 256",
    ),
    row(
        "a hole",
        header(lambda h: h.pop("experts.0")),
        f"{WEIGHTS}: tensor experts.1: data_offsets [352, 448] leave a hole",
    ),
    # shape and dtype
    row("a shape of 2^80 elements", shape([2**40, 2**40]), f"{NORM} BF16 of shape [1099511627776, 10995"),
    row("a zero that hides an overflow", shape([2**62, 2**62, 0]), f"{NORM} BF16 of shape [4611686018427387904, 4"),
    row("a shape of 100,000 dimensions", shape([2**62] * 100_000), f"{NORM} BF16 of shape [4611686018427387904, 4"),
    row("a negative size", shape([-8]), f"{NORM} shape [-8] and data_offsets"),
    row("a fractional size", shape([8.0]), f"{NORM} shape [8.0] and data_offsets"),
    row("a true size", shape([True, 8]), f"{NORM} shape [True, 8] and data_offsets"),
    row("an unknown dtype", entry("norm", dtype="Q8"), f"{NORM} unknown dtype 'Q8'"),
    row("a dtype of another size", entry("norm", dtype="F32"), f"{NORM} F32 of shape [8] takes 32 bytes"),
    unfit(
        "a dtype of 8 bits",
        "tensor norm has dtype BF16 in base_model, F8_E4M3 in reasoning_sft",
        changes={"norm": torch.zeros(8).to(torch.float8_e4m3fn)},
    ),
    unfit(
        "a dtype of 64 bits",
        "tensor norm has dtype BF16 in base_model, F64 in reasoning_sft",
        changes={"norm": torch.zeros(8).double()},
    ),
    # the file
    row("a file cut in its data", longer(-10), f"{NORM} data_offsets [448, 464] are out of range, the file holds 456"),
    row("bytes at the end", longer(10), f"{WEIGHTS}: 10 bytes at the end belong to no tensor"),
    row("a pickle named safetensors", pickled, f"{WEIGHTS}: the header length is"),
    row("an archive of torch.save named safetensors", zipped, f"{WEIGHTS}: the header length is"),
    row("pickles only", pickles_only, "holds pickled weights only (pytorch_model.bin), which are never loaded"),
    row("weights out of a link", moved_out(WEIGHTS), f"{WEIGHTS}: leads out"),
    row(
        "weights that are a device",
        link(WEIGHTS, "/dev/zero"),
        f"{WEIGHTS}: leads out of the checkpoint directory, to /dev/zero",
    ),
    row("weights that link to themselves", link(WEIGHTS, WEIGHTS), f"{WEIGHTS}: expected a regular file"),
    # the index
    sharded("a shard at an absolute path", shard_of("norm", "/etc/passwd"), INDEXED),
    sharded("a shard of another model", shard_of("norm", "../base_model/model.safetensors"), INDEXED),
    sharded("a shard in a directory", shard_of("norm", f"sub/{SECOND}"), INDEXED),
    sharded("a shard with NUL", shard_of("norm", "a\0.safetensors"), INDEXED),
    sharded("a shard of 10,000 characters", shard_of("norm", 10_000 * "x" + ".safetensors"), INDEXED),
    sharded("a shard that is a number", shard_of("norm", 3), INDEXED),
    sharded("a shard that is a pickle", shard_of("norm", "pytorch_model.bin"), INDEXED),
    sharded("an indexed name with NUL", shard_of("no\0rm", FIRST), f"{INDEX}: tensor 'no\\x00rm': {NAMES}"),
    sharded("an index of nothing", edited(INDEX, weight_map={}), f"{INDEX}: expected an object weight_map"),
    sharded("an index that is a list", edited(INDEX, weight_map=[FIRST]), f"{INDEX}: expected an object weight_map"),
    row("an index beside a single file", content(INDEX, "{}"), f"holds both {WEIGHTS} and {INDEX}"),
    sharded("a missing shard", removed(SECOND), f"{SECOND}: the shard of tensor embed is missing"),
    sharded("a tensor missing in its shard", shard_of("router", SECOND), f"{SECOND}: tensor router is missing"),
    sharded(
        "a tensor of no shard", shard_of("norm", None), f"{FIRST}: holds tensor norm, but {INDEX} does not name it"
    ),
    sharded("tensors in two shards", twice_sharded, f"{SECOND}: tensor embed is missing"),
    sharded("a shard that is another", link(SECOND, FIRST), f"{SECOND}: tensor embed is missing"),
    sharded("a shard out of a link", moved_out(SECOND), f"{SECOND}: leads out"),
    sharded("a shard that is a pipe", special(SECOND, os.mkfifo), f"{SECOND}: expected a regular file"),
    sharded("a shard that is a directory", special(SECOND, Path.mkdir), f"{SECOND}: expected a regular file"),
    sharded("a shard that is a socket", special(SECOND, socket), f"{SECOND}: expected a regular file"),
    sharded(
        "a shard that is a device",
        link(SECOND, "/dev/zero"),
        f"{SECOND}: leads out of the checkpoint directory, to /dev/zero",
    ),
    # config.json and generation_config.json
    row("no config", removed(CONFIG_FILE), f"{CONFIG_FILE}: expected a regular file, there is none"),
    row(
        "a config that is another file",
        link(CONFIG_FILE, "/etc/passwd"),
        f"{CONFIG_FILE}: leads out of the checkpoint directory, to /etc/passwd",
    ),
    row("a config that links to itself", link(CONFIG_FILE, CONFIG_FILE), f"{CONFIG_FILE}: expected a regular file"),
    row("a config that is a pipe", special(CONFIG_FILE, os.mkfifo), f"{CONFIG_FILE}: expected a regular file"),
    row("a config of a terabyte", sparse(CONFIG_FILE), f"{CONFIG_FILE}: expected at most 100000000 bytes"),
    row("a config that is no JSON", content(CONFIG_FILE, "{'a': 1}"), f"{CONFIG_FILE}: not valid JSON"),
    row("a config that is a list", content(CONFIG_FILE, "[]"), f"{CONFIG_FILE}: expected a JSON object, got list"),
    row("a config not in UTF-8", content(CONFIG_FILE, b'{"a": "\xff"}'), f"{CONFIG_FILE}: not valid JSON: 'utf-8'"),
    row("a config of 200 levels", content(CONFIG_FILE, NESTED), f"{CONFIG_FILE}: expected JSON of at most 100 levels"),
    row(
        "a config without end",
        content(CONFIG_FILE, 200_000 * '{"a":'),
        f"{CONFIG_FILE}: not valid JSON: maximum recurs",
    ),
    row(
        "a number of 5,000 digits",
        content(CONFIG_FILE, '{"a": ' + 5000 * "9" + "}"),
        f"{CONFIG_FILE}: not valid JSON: E",
    ),
    row("a NaN in the config", content(CONFIG_FILE, '{"a": NaN}'), f"{CONFIG_FILE}: not valid JSON: NaN is no number"),
    unfit(
        "a vocabulary of 10^15",
        f"{CONFIG_FILE}: vocab_size is 16 in base_model, 1000000000000000 in reasoning_sft",
        edited(CONFIG_FILE, vocab_size=10**15),
    ),
    unfit(
        "another number of experts",
        f"{CONFIG_FILE}: num_experts is 2 in base_model, 3 in reasoning_sft",
        config=CONFIG | {"num_experts": 3},
    ),
    row(
        "a generation config that is a list",
        content("generation_config.json", "[]"),
        "generation_config.json: expected a JSON object",
    ),
    # the tokenizer
    row(
        "no tokenizer", removed("tokenizer*", "chat_template.jinja"), "expected tokenizer files to copy, there are none"
    ),
    row("a tokenizer that is no JSON", content("tokenizer.json", "{"), "tokenizer.json: not valid JSON"),
    row("a tokenizer out of a link", moved_out("tokenizer.json"), "tokenizer.json: leads out"),
    row("a tokenizer that is gone", link("tokenizer.json", "gone.json"), "tokenizer.json: expected a regular file"),
    row("a tokenizer of a terabyte", sparse("tokenizer.model"), "tokenizer.model: expected at most 100000000 bytes"),
    row("templates out of a link", templates_elsewhere, "additional_chat_templates: leads out"),
    row("a template not in UTF-8", content("chat_template.jinja", b"\xff"), "chat_template.jinja: not valid UTF-8"),
    row(
        "a vocabulary that is text",
        edited("tokenizer.json", model={"vocab": "abc"}),
        "tokenizer.json: expected model.vocab",
    ),
    row("a negative id", vocabulary(a=-1), "tokenizer.json: expected a token and its id, got 'a': -1"),
    row("a true id", vocabulary(a=True), "tokenizer.json: expected a token and its id, got 'a': True"),
    row("a fractional id", vocabulary(a=3.0), "tokenizer.json: expected a token and its id, got 'a': 3.0"),
    row("two tokens of one id", vocabulary(a=3, b=3), "tokenizer.json: tokens 'a' and 'b' have one id, 3"),
    row(
        "an added token without content",
        edited("tokenizer.json", added_tokens=[{"id": 5}]),
        "tokenizer.json: expected a token and its id, got None: 5",
    ),
    row(
        "an added id of 5,000 digits",
        edited("tokenizer_config.json", added_tokens_decoder={5000 * "9": "x"}),
        "tokenizer_config.json: expected added_tokens_decoder to be an object",
    ),
    unfit(
        "an id beyond vocab_size",
        "tokenizer: token 'z' of reasoning_sft has id 16, but vocab_size is 16",
        vocabulary(z=16),
    ),
    unfit("a token with another id", "tokenizer: token 'a' is 3 in base_model, 7 in reasoning_sft", vocabulary(a=7)),
    unfit("an id with another token", "tokenizer: id 3 is 'a' in base_model, 'c' in reasoning_sft", vocabulary(c=3)),
    # the manifest
    row(
        "a damaged tensor",
        manifest(flipped),
        f"{WEIGHTS}: tensor norm of reasoning_sft: damaged, not what bai_manifest.json recorded",
    ),
    row(
        "another config than recorded",
        manifest(edited(CONFIG_FILE, new=1)),
        "config or tokenizer files of reasoning_sft are not what bai_manifest.json recorded: config.json;",
    ),
    row(
        "another shape than recorded",
        manifest(recorded("norm", {"shape": [2, 4]})),
        "bai_manifest.json: tensor norm of reasoning_sft is BF16 of shape [8], recorded as BF16 of shape [2, 4]",
    ),
    row(
        "a recorded tensor that is not there",
        manifest(recorded("bias", {"dtype": "BF16", "shape": [1], "xxh3_128": ""})),
        "bai_manifest.json: tensor bias of reasoning_sft is absent, recorded as BF16 of shape [1]",
    ),
    row(
        "a manifest of version 2",
        manifest(edited("bai_manifest.json", version=2)),
        "bai_manifest.json: not a version 1 manifest",
    ),
    row(
        "a manifest that is no JSON",
        manifest(content("bai_manifest.json", "{")),
        "bai_manifest.json: not valid JSON",
    ),
    row("a manifest out of a link", manifest(moved_out("bai_manifest.json")), "bai_manifest.json: leads out"),
    # values
    numbers("a NaN at first in BF16", 0, BF16, NAN),
    numbers("an infinity at last in BF16", 47, BF16, -INFINITY),
    numbers("a NaN at last in F16", 47, F16, NAN),
    numbers("an infinity at first in F16", 0, F16, INFINITY),
    numbers("a NaN in the middle in F32", 19, F32, NAN),
    numbers("an infinity at last in F32", 47, F32, INFINITY),
    numbers("a NaN in a model of weight 0", 0, BF16, NAN, BASE_ONLY),
    # against the other models
    unfit(
        "integers", "tensor norm has dtype BF16 in base_model, I64 in reasoning_sft", changes={"norm": torch.arange(8)}
    ),
    unfit(
        "a tensor less",
        f"tensor scale is missing in reasoning_sft (it is in base_model, {WEIGHTS})",
        changes={"scale": None},
    ),
    unfit(
        "a tensor more",
        f"tensor bias is missing in base_model (it is in reasoning_sft, {WEIGHTS})",
        changes={"bias": torch.zeros(2)},
    ),
    unfit(
        "another shape",
        "tensor norm has shape [8] in base_model, [9] in reasoning_sft",
        changes={"norm": torch.zeros(9).bfloat16()},
    ),
    unfit(
        "a transposed matrix",
        "tensor experts.0 has shape [8, 6] in base_model, [6, 8] in reasoning_sft",
        changes={"experts.0": torch.zeros(6, 8).bfloat16()},
    ),
    Hostile(
        "packed experts",
        nothing,
        "experts are packed in reasoning_sft (experts.up) and one tensor each in base_model (experts.0.up)",
        {"changes": {"experts.up": torch.zeros(2, 8, 6)}},
        FitError,
        others={"experts.0.up": torch.zeros(8, 6)},
    ),
]
