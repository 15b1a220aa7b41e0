"""Ways to damage a checkpoint directory. Each function gives a function that does it to a directory."""

import json
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bai_pipeline.checkpoints import Checkpoint, describe, write_manifest

Damage = Callable[[Path], object]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDED: dict[str, Any] = {"shards": [["scale", "norm"], ["embed", "experts.1", "experts.0"]]}


def nothing(path: Path) -> None:
    """The checkpoint was made unfit."""


def raw_header(raw: bytes, length: int | None = None) -> Damage:
    """Another header before the same data; `length` is the one that the file claims."""

    def damage(path: Path) -> None:
        content = (path / WEIGHTS).read_bytes()
        (old,) = struct.unpack("<Q", content[:8])
        prefix = struct.pack("<Q", len(raw) if length is None else length)
        (path / WEIGHTS).write_bytes(prefix + raw + content[8 + old :])

    return damage


def header(edit: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(path: Path) -> None:
        content = (path / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        value = json.loads(content[8 : 8 + length])
        edit(value)
        raw_header(json.dumps(value).encode())(path)

    return damage


def entry(tensor: str, **changes: object) -> Damage:
    """What the header says of a tensor."""
    return header(lambda value: value[tensor].update(changes))


def renamed(name: str) -> Damage:
    """The tensor `scale` under another name."""
    return header(lambda value: value.update({name: value.pop("scale")}))


def padded(shape: list[int], *, twice: bool = False) -> Damage:
    """Ten megabytes of tensors that hold nothing; the last one twice, if asked for."""

    def damage(path: Path) -> None:
        content = (path / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        place = f'{{"dtype": "BF16", "shape": {shape}, "data_offsets": [0, 0]}}'
        names = [f"k{number:06}" + 193 * "x" for number in range(40_000)]
        more = ", ".join(f'"{name}": {place}' for name in [*names, *names[-1:] * twice])
        raw_header(content[8 : 8 + length].rstrip()[:-1] + b", " + more.encode() + b"}")(path)

    return damage


def content(name: str, value: bytes | str) -> Damage:
    """Another content of a file."""
    return lambda path: (path / name).write_bytes(value if isinstance(value, bytes) else value.encode())


def longer(count: int) -> Damage:
    """Bytes at the end of the weights; fewer than there were when negative."""
    return lambda path: os.truncate(path / WEIGHTS, (path / WEIGHTS).stat().st_size + count)


def sparse(name: str, size: int = 2**40) -> Damage:
    """A file of a terabyte that takes no disk."""

    def damage(path: Path) -> None:
        (path / name).touch()
        os.truncate(path / name, size)

    return damage


def removed(*patterns: str) -> Damage:
    def damage(path: Path) -> None:
        for pattern in patterns:
            for file in path.glob(pattern):
                file.unlink()

    return damage


def link(name: str, target: str) -> Damage:
    """A symbolic link in place of a file."""

    def damage(path: Path) -> None:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(target)

    return damage


def moved_out(name: str) -> Damage:
    """A link to the same file, which is outside now."""

    def damage(path: Path) -> None:
        (path / name).rename(path.parent / f"outside-{name}")
        (path / name).symlink_to(path.parent / f"outside-{name}")

    return damage


def special(name: str, make: Callable[[Path], object]) -> Damage:
    """Something else than a regular file."""

    def damage(path: Path) -> None:
        (path / name).unlink()
        make(path / name)

    return damage


def socket(file: Path) -> None:
    os.mknod(file, stat.S_IFSOCK | 0o600)


def templates_elsewhere(path: Path) -> None:
    outside = path.parent / "outside"
    outside.mkdir()
    (outside / "tool.jinja").write_text("{{ secret }}")
    (path / "additional_chat_templates").symlink_to(outside)


def shard_of(tensor: str, shard: object) -> Damage:
    """Where the index puts a tensor; None: nowhere."""

    def damage(path: Path) -> None:
        index = json.loads((path / INDEX).read_text())
        index["weight_map"][tensor] = shard
        if shard is None:
            del index["weight_map"][tensor]
        (path / INDEX).write_text(json.dumps(index))

    return damage


def twice_sharded(path: Path) -> None:
    """The first shard again as the second."""
    (path / SECOND).write_bytes((path / FIRST).read_bytes())


def edited(name: str, **changes: object) -> Damage:
    """Keys of a JSON file."""

    def damage(path: Path) -> None:
        value = json.loads((path / name).read_text()) | changes
        (path / name).write_text(json.dumps(value))

    return damage


def vocabulary(**ids: object) -> Damage:
    return edited("tokenizer.json", model={"type": "WordLevel", "vocab": ids})


def manifest(change: Damage) -> Damage:
    """A manifest, and then a change."""

    def damage(path: Path) -> None:
        write_manifest(path, describe(Checkpoint.open(path), code_version="1"))
        change(path)

    return damage


def recorded(tensor: str, record: dict[str, object]) -> Damage:
    """What the manifest says of a tensor."""

    def damage(path: Path) -> None:
        value = json.loads((path / "bai_manifest.json").read_text())
        value["tensors"][tensor] = value["tensors"].get(tensor, {}) | record
        (path / "bai_manifest.json").write_text(json.dumps(value))

    return damage


def flipped(path: Path) -> None:
    """One bit of the tensor `norm`."""
    data = bytearray((path / WEIGHTS).read_bytes())
    data[Checkpoint.open(path).tensors["norm"].start] ^= 1
    (path / WEIGHTS).write_bytes(data)


def pickled(path: Path) -> None:
    """A pickle that makes a directory when it is loaded."""
    (path / WEIGHTS).write_bytes(pickle.dumps(_Bomb(path.parent / "exploded")))


def zipped(path: Path) -> None:
    """What torch.save writes."""
    with zipfile.ZipFile(path / WEIGHTS, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Bomb(path.parent / "exploded")))


def pickles_only(path: Path) -> None:
    pickled(path)
    (path / WEIGHTS).rename(path / "pytorch_model.bin")


def poisoned(dtype: torch.dtype, position: int, value: float) -> dict[str, Any]:
    """How a model is made of this dtype with one value that is not finite."""
    tensor = torch.zeros(8, 6)
    tensor.view(-1)[position] = value
    return {"dtype": dtype, "changes": {"experts.1": tensor.to(dtype)}}


class _Bomb:
    def __init__(self, crater: Path) -> None:
        self._crater = crater

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._crater),)
