"""`bai inspect`, `bai compare` and what `bai verify` says of a directory."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bai_pipeline.cli.progress import progress_to_stderr
from bai_pipeline.merging.recipe import Dtype

if TYPE_CHECKING:
    from bai_pipeline.checkpoints import Checkpoint
    from bai_pipeline.checkpoints.distance import Distances

WORST: Final = 10
"""Tensors that `compare` shows to people."""

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k")

Models = Annotated[list[Path], typer.Argument(metavar="DIR", help="Checkpoints; with --base SFT models.")]
Base = Annotated[Path | None, typer.Option("--base", metavar="DIR", help="Measure how far the others are from it.")]
Weight = Annotated[float, typer.Option("--weight", help="Of each task vector by itself, such as (1 - alpha) * w_i.")]
OutputDtype = Annotated[Dtype | None, typer.Option("--dtype", help="Rounded to; default: the base's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
One = Annotated[Path, typer.Argument(metavar="A")]
Other = Annotated[Path, typer.Argument(metavar="B")]


def inspect(
    models: Models, base: Base = None, weight: Weight = 1.0, dtype: OutputDtype = None, as_json: JsonOption = False
) -> None:
    """Say what is in checkpoints or, with --base, how far they are from it and what of that survives rounding.

    Of a base weight b, an SFT weight x and y = b + w (x - b), moved is the share of weights with x != b, survived that
    with round(y) != round(b); the last column is the RMS of round(y) - y divided by that of y - b.
    """
    from bai_pipeline.checkpoints import Checkpoint

    named = {path.resolve().name: path for path in models}
    named = named if len(named) == len(models) else {str(path): path for path in models}
    labels, checkpoints = list(named), {label: Checkpoint.open(path) for label, path in named.items()}
    if base is None:
        found = {label: _contents(checkpoint) for label, checkpoint in checkpoints.items()}
        if as_json:
            _print_json(found)
            return
        for label, contents in found.items():
            kinds = contents.pop("kinds").items()
            _print_table((label, ""), contents.items())
            _print_table(("kind", "tensors", "parameters"), [(kind, *counts.values()) for kind, counts in kinds])
        return
    from bai_pipeline.checkpoints.distance import LARGE_ROUNDING, measure_distances

    with progress_to_stderr(quiet=as_json) as reporter:
        opened = Checkpoint.open(base)
        distances = measure_distances(opened, checkpoints, weight=weight, dtype=dtype, reporter=reporter)
    groups = _groups(distances, labels, weight)
    rows = [(group, label, *found.values()) for group, of in groups.items() for label, found in of["models"].items()]
    warnings = [
        f"{group} of {label}: rounding to {dtype or 'the base dtype'} is {rounding:.2g} of the change (RMS)"
        for group, label, *_, rounding in rows
        if rounding is not None and rounding > LARGE_ROUNDING
    ]
    if as_json:
        given = {"base": str(base), "weight": weight, "dtype": dtype}
        _print_json({**given, "groups": groups, "warnings": warnings, "notes": distances.notes})
        return
    _print_table(("group", "model", "|x - b| / |b|", "moved", "survived", "rounding / change"), rows)
    if len(labels) > 1:
        columns = ("group", *(f"cosine {pair}" for pair in groups["all"]["cosines"]))
        _print_table(columns, [(group, *of["cosines"].values()) for group, of in groups.items()])
    for line in [*distances.notes, *(f"warning: {warning}" for warning in warnings)]:
        typer.echo(line)


def compare(one: One, other: Other, as_json: JsonOption = False) -> None:
    """Say whether two checkpoints are the same, however sharded (exit code 0), and if not how they differ (1)."""
    from bai_pipeline.checkpoints import Checkpoint, content_digest, hash_files
    from bai_pipeline.checkpoints.distance import difference
    from bai_pipeline.checkpoints.listing import collapsed, numberless
    from bai_pipeline.checkpoints.manifest import hash_tensors

    a, b = Checkpoint.open(one), Checkpoint.open(other)
    (mine, theirs), files = (hash_tensors(a), hash_tensors(b)), (hash_files(one), hash_files(other))
    digests = [content_digest(mine, files[0]), content_digest(theirs, files[1])]
    lines = list(_compare_files(one, other, *files))
    tensors: dict[str, dict[str, float | None]] = {}
    for name in {**mine, **theirs}:
        if name not in mine or name not in theirs:
            place = one if name in mine else other
            lines.append((f"{numberless(name)} in {place}", f"tensor {name}: only in {place}"))
            continue
        kinds = [f"{record.dtype} {record.shape}" for record in (mine[name], theirs[name])]
        if kinds[0] != kinds[1]:
            lines.append((f"{kinds}", f"tensor {name}: {kinds[0]} in {one}, {kinds[1]} in {other}"))
        if mine[name] == theirs[name]:
            tensors[name] = {"equal": 1.0, "largest": 0.0, "distance": 0.0}
        elif mine[name].shape == theirs[name].shape:
            tensors[name] = difference(a.tensors[name], b.tensors[name])
    identical = digests[0] == digests[1]
    if as_json:
        texts = [line for _, line in lines]
        _print_json({"identical": identical, "digests": digests, "differences": texts, "tensors": tensors})
    elif identical:
        typer.echo(f"the same checkpoint: {len(mine):,} tensors, {len(files[0])} other files, digest {digests[0]}")
    else:
        distances = {name: numbers["distance"] for name, numbers in tensors.items() if mine[name] != theirs[name]}
        typer.echo(f"{len(distances):,} of {len(tensors):,} tensors that can be compared differ")
        for line in collapsed(lines):
            typer.echo(line)
        worst = sorted(distances, key=lambda name: (distances[name] is not None, -(distances[name] or 0.0)))[:WORST]
        rows = [(name, *tensors[name].values()) for name in worst]
        _print_table(("tensor", "equal elements", "max |B - A|", "|B - A| / |A|"), rows)
    if not identical:
        raise typer.Exit(1)


def verify_directory(path: Path) -> str:
    """What is well: each byte as in the manifest or, without one, all values finite; else raises a CheckpointError."""
    from bai_pipeline import checkpoints
    from bai_pipeline.merging.recipe_directory import is_recipe_directory, open_recipe_directory

    if is_recipe_directory(path):
        return f"a recipe; its models are unchanged: {', '.join(open_recipe_directory(path).checkpoints)}"
    if (path / checkpoints.MANIFEST_FILE).exists():
        manifest = checkpoints.verify(path)
        return f"{len(manifest.tensors):,} tensors and {len(manifest.files)} other files are as recorded, byte by byte"
    opened = checkpoints.Checkpoint.open(path)
    checkpoints.check_finite(opened)
    return f"no {checkpoints.MANIFEST_FILE} to compare with; headers are sound, {len(opened.tensors):,} tensors finite"


def _contents(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What is in a checkpoint, as JSON; no tensor is read."""
    from bai_pipeline.checkpoints.directory import read_json_object, tokenizer_files
    from bai_pipeline.checkpoints.distance import kind_of
    from bai_pipeline.checkpoints.manifest import MANIFEST_FILE, read_manifest
    from bai_pipeline.checkpoints.vocabulary import read_vocabulary

    path, tensors = checkpoint.path, checkpoint.tensors.values()
    nested = checkpoint.config.get("text_config")
    config = {**(nested if isinstance(nested, dict) else {}), **checkpoint.config}
    parameters: Counter[str] = Counter()
    for tensor in tensors:
        parameters[kind_of(tensor.name)] += tensor.elements
    experts, chosen = (next((config[key] for key in keys if key in config), None) for keys in (_EXPERTS, _PER_TOKEN))
    active = None
    if "experts" in parameters and isinstance(experts, int) and isinstance(chosen, int) and 0 < chosen <= experts:
        active = parameters.total() - parameters["experts"] * (experts - chosen) // experts
    counts, vocabulary = Counter(map(kind_of, checkpoint.tensors)), read_vocabulary(path)
    tokenizer, generation = (
        read_json_object(path, name) if (path / name).exists() else {}
        for name in ("tokenizer.json", "generation_config.json")
    )
    manifest = read_manifest(path) if (path / MANIFEST_FILE).exists() else None
    recorded = {"recipe", "parents", "missing_rows", "missing_rows_from"}
    return {
        "architecture": {key: config.get(key) for key in ("model_type", "architectures")},
        "parameters": parameters.total(),
        "active per token": active,
        "experts": {"of a layer": experts, "per token": chosen},
        "bytes": checkpoint.nbytes,
        "dtypes": Counter(tensor.dtype for tensor in tensors),
        "shards": len(checkpoint.shards()),
        "tokenizer": {
            "files": list(tokenizer_files(path)),
            "tokens": vocabulary and len(vocabulary.ids),
            "added": [token["content"] for token in tokenizer.get("added_tokens") or []],
            "chat template": vocabulary and vocabulary.chat_template is not None,
        },
        "generation config": generation,
        "manifest": manifest and {name: getattr(manifest, name) for name in sorted(recorded)},
        "kinds": {kind: {"tensors": n, "parameters": parameters[kind]} for kind, n in counts.items()},
    }


def _groups(found: "Distances", labels: Sequence[str], weight: float) -> dict[str, dict[str, Any]]:
    """The measures of every group of tensors, as JSON."""
    layers = sorted(found.layers.items(), key=lambda item: (item[0] is None, item[0]))
    named = {"outside the layers" if number is None else f"layer {number}": sums for number, sums in layers}
    pairs = list(combinations(range(len(labels)), 2))
    return {
        group: {
            "elements": sums.elements,
            "models": {label: sums.of(number, weight) for number, label in enumerate(labels)},
            "cosines": {f"{labels[one]}, {labels[other]}": sums.cosine(one, other) for one, other in pairs},
        }
        for group, sums in {"all": found.total, **found.kinds, **named}.items()
    }


def _compare_files(one: Path, other: Path, mine: dict[str, str], theirs: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(kind, line) for every difference of config and tokenizer, JSON value by JSON value."""
    from bai_pipeline.checkpoints.directory import read_json_object

    for name in sorted(mine.keys() | theirs.keys()):
        if name not in mine or name not in theirs:
            yield name, f"{name}: only in {one if name in mine else other}"
        elif mine[name] != theirs[name] and not name.endswith(".json"):
            yield name, f"{name}: differs"
        elif mine[name] != theirs[name]:
            a, b = (dict(_leaves(read_json_object(path, name))) for path in (one, other))
            keys = [key for key in {**a, **b} if a.get(key, "absent") != b.get(key, "absent")]
            for key in keys:
                line = f"{name}: {key} is {a.get(key, 'absent')} in {one}, {b.get(key, 'absent')} in {other}"
                yield f"{name}: {key.partition('.')[0]}", line
            if not keys:
                yield name, f"{name}: the same values, written differently"


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and JSON text of everything in nested objects and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _leaves(item, f"{key}.{name}" if key else str(name))
    if not items:
        yield key, json.dumps(value)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Where nobody watches no width is given: a pipe cuts no column."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for number, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number and column else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_shown(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def _shown(cell: object) -> str:
    if isinstance(cell, int | float):
        return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"
    if isinstance(cell, dict):
        return ", ".join(f"{key} {json.dumps(value, ensure_ascii=False)}" for key, value in cell.items()) or "-"
    return cell if isinstance(cell, str) else "-" if cell is None else json.dumps(cell, ensure_ascii=False)
