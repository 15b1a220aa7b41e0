"""The files of a checkpoint directory: which they are, and that none of them leads out of it.

A pickle is never opened. A symbolic link may point inside the directory or, in a Hugging Face cache
(`models--…/snapshots/<revision>`), to the `blobs` beside it.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bai_pipeline.checkpoints.header import TensorInfo, check_name, read_header, reading
from bai_pipeline.checkpoints.listing import short
from bai_pipeline.errors import CheckpointError

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
CONFIG_FILE: Final = "config.json"
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""Everything that AutoTokenizer reads, the chat template included; `additional_chat_templates/*.jinja` count too."""

MAX_FILE_BYTES: Final = 100_000_000
"""Of a file other than tensors; the largest tokenizers have some 35 MB, the index of a 1 T MoE 15 MB."""

_MAX_NESTING = 100
"""Of JSON: less than Python's own limit, so that what has been read can be compared, shown and written too."""
_TEMPLATES = "additional_chat_templates"
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][\w.+=-]{0,200}\.safetensors", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def file_inside(directory: Path, name: str) -> Path:
    """`directory / name`, once it is known to be a regular file that no link leads out of the directory.

    Raises:
        CheckpointError: it is absent, not a regular file or outside.
    """
    file = directory / name
    target = _place_inside(directory, name)
    with reading(file):
        if not target.is_file():
            raise CheckpointError(f"{file}: expected a regular file, there is none")
    return file


def small_file_inside(directory: Path, name: str) -> Path:
    """`file_inside` of a file that is read as a whole.

    Raises:
        CheckpointError: also when it is larger than such a file can be.
    """
    file = file_inside(directory, name)
    with reading(file):
        size = file.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{file}: expected at most {MAX_FILE_BYTES} bytes, the file has {size}; it was not read")
    return file


def read_json_object(directory: Path, name: str) -> dict[str, Any]:
    """A JSON file of the directory that must hold an object."""
    file = small_file_inside(directory, name)
    with reading(file):
        content = file.read_bytes()
    try:
        value = json.loads(content, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(value).__name__}")
    if _nests_deeper(value, _MAX_NESTING):
        raise CheckpointError(f"{file}: expected JSON of at most {_MAX_NESTING} levels, it nests deeper")
    return value


def read_text(directory: Path, name: str) -> str:
    """A UTF-8 text file of the directory."""
    file = small_file_inside(directory, name)
    try:
        with reading(file):
            return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: not valid UTF-8: {error}") from None


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The tokenizer and chat template files that are there, by name."""
    extra: list[str] = []
    if is_there(directory / _TEMPLATES):
        _place_inside(directory, _TEMPLATES)
        extra = sorted(f"{_TEMPLATES}/{file.name}" for file in directory.glob(f"{_TEMPLATES}/*.jinja"))
    names = [name for name in TOKENIZER_FILES if is_there(directory / name)]
    return {name: small_file_inside(directory, name) for name in [*names, *extra]}


def content_files(directory: Path) -> dict[str, Path]:
    """The files other than tensors that make a checkpoint what it is: config, generation config, tokenizer."""
    names = [name for name in (CONFIG_FILE, "generation_config.json") if is_there(directory / name)]
    return {name: small_file_inside(directory, name) for name in names} | tokenizer_files(directory)


def is_there(path: Path) -> bool:
    """Whether the directory has an entry of that name; one that leads nowhere is a fault, not absent."""
    return os.path.lexists(path)


def read_tensors(directory: Path) -> dict[str, TensorInfo]:
    """All tensors of the directory, by shard and position, from `model.safetensors` or the shards of the index.

    Raises:
        CheckpointError: no safetensors, pickles only, no tensor, a malformed header or index, a shard that is missing
            or outside the directory, an indexed tensor that its shard has not, a shard's tensor that the index has not.
    """
    with reading(directory):
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: expected a checkpoint directory, there is none")
    single, index = is_there(directory / SINGLE_FILE), is_there(directory / INDEX_FILE)
    if single and index:
        raise CheckpointError(f"{directory}: holds both {SINGLE_FILE} and {INDEX_FILE}; remove one of them")
    if single:
        tensors = read_header(file_inside(directory, SINGLE_FILE))
        if not tensors:
            raise CheckpointError(f"{directory / SINGLE_FILE}: expected tensors, it holds none")
        return tensors
    if not index:
        raise CheckpointError(_nothing_to_read(directory))
    return _read_shards(directory, _read_weight_map(directory))


def _read_weight_map(directory: Path) -> dict[str, str]:
    weight_map, file = read_json_object(directory, INDEX_FILE).get("weight_map"), directory / INDEX_FILE
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{file}: expected an object weight_map that names a shard per tensor")
    for tensor, shard in weight_map.items():
        check_name(file, tensor)
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{file}: tensor {tensor}: expected the name of a .safetensors file of the same "
                f"directory, got {short(shard)}; it was not opened"
            )
    return weight_map


def _read_shards(directory: Path, weight_map: dict[str, str]) -> dict[str, TensorInfo]:
    expected: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        expected.setdefault(shard, []).append(tensor)
    found: dict[str, TensorInfo] = {}
    for shard, names in sorted(expected.items()):
        if not is_there(directory / shard):
            raise CheckpointError(f"{directory / shard}: the shard of tensor {names[0]} is missing")
        tensors = read_header(file_inside(directory, shard))
        for name in names:
            if name not in tensors:
                raise CheckpointError(f"{directory / shard}: tensor {name} is missing; {INDEX_FILE} puts it there")
        for name in tensors:
            if weight_map.get(name) != shard:
                place = f"puts it in {weight_map[name]}" if name in weight_map else "does not name it"
                raise CheckpointError(f"{directory / shard}: holds tensor {name}, but {INDEX_FILE} {place}")
        found.update(tensors)
    return found


def _nothing_to_read(directory: Path) -> str:
    with reading(directory):
        pickles = sorted(file.name for file in directory.iterdir() if file.suffix in _PICKLES)
    if pickles:
        return (
            f"{directory}: holds pickled weights only ({', '.join(pickles[:3])}), which are never loaded; "
            f"convert them to {SINGLE_FILE} where you trust them"
        )
    return f"{directory}: expected {SINGLE_FILE} or {INDEX_FILE}, there is neither"


def _place_inside(directory: Path, name: str) -> Path:
    """Where `directory / name` lies once links are followed.

    Raises:
        CheckpointError: outside.
    """
    root, target = (Path(os.path.realpath(path)) for path in (directory, directory / name))
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{directory / name}: leads out of the checkpoint directory, to {target}; it was not opened"
        )
    return target


def _constant(name: str) -> float:
    """Python writes and reads infinities, which real configs hold (time_step_limit); a NaN is equal to nothing."""
    if name == "NaN":
        raise ValueError("NaN is no number")
    return float(name)


def _nests_deeper(value: object, levels: int) -> bool:
    containers: list[Any] = [value]
    for _ in range(levels):
        children: Iterable[Any] = (
            child for outer in containers for child in (outer.values() if isinstance(outer, dict) else outer)
        )
        containers = [child for child in children if isinstance(child, dict | list)]
        if not containers:
            return False
    return True
