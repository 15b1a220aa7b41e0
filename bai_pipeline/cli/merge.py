"""`bai merge`: checkpoints into one, or into one per alpha.

The imports of this module are what a merge by the native kernel loads: neither torch nor numpy is among them.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bai_pipeline.cli.progress import progress_to_stderr
from bai_pipeline.errors import RecipeError
from bai_pipeline.merging import MERGE_VERSION
from bai_pipeline.merging.recipe import MERGED_DTYPES, Dtype, Recipe, bai_recipe, stage_1_recipe

if TYPE_CHECKING:
    from bai_pipeline.merging.plan import MergePlan

SUMMARY = "Merge checkpoints: alpha * base + (1 - alpha) * Σ weight * sft, or what a recipe says."

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_CACHE = "~/.cache/bai_pipeline/digests.json"


def parser() -> argparse.ArgumentParser:
    """The options. argparse starts a tenth of a second sooner than the library that reads those of other commands, and
    a small merge takes no longer than that."""
    result = argparse.ArgumentParser("bai merge", description=SUMMARY, allow_abbrev=False)
    add = result.add_argument
    add("--base", metavar="DIR", type=Path, help="the base model (Stage 2)")
    add(
        "--sft",
        metavar="DIR=WEIGHT",
        action="append",
        default=[],
        help="an SFT model and its weight in Stage 1; repeat: they sum to 1",
    )
    add(
        "--alpha",
        action="append",
        default=[],
        help="weight of the base; repeat for several in one pass: OUT/ALPHA each",
    )
    add(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="where to write; must not exist yet, or be this very merge",
    )
    add("--recipe", metavar="FILE", type=Path, help="a recipe (JSON) or a mergekit configuration (YAML), instead")
    add("--model", metavar="NAME=DIR", action="append", default=[], help="where a model of the recipe lies; repeat")
    add("--tokenizer-from", metavar="NAME", help="model that gives tokenizer and generation config; default: the last")
    add(
        "--missing-rows-from",
        metavar="NAME",
        help="model whose rows stand in for tokens that others lack; default: the tokenizer's",
    )
    add("--chat-template", metavar="FILE", type=Path, help="in place of the tokenizer's")
    add("--dtype", choices=MERGED_DTYPES, help="of the output; default: that of the first model")
    add("--max-shard-size", metavar="SIZE", help="such as 5GB; default: the first model's shards")
    add("--recipe-only", action="store_true", help="write no tensors: whoever loads the directory merges")
    add("--backend", choices=("auto", "kernel", "numpy", "torch"), default="auto", help="changes no byte of the result")
    add("--threads", type=int, help="default: one a core, at most 8")
    add(
        "--cache",
        metavar="FILE",
        type=Path,
        default=Path(_CACHE),
        help=f"remembers digests of checkpoints; default: {_CACHE}",
    )
    add("--json", action="store_true", help="machine-readable output")
    return result


def merge(arguments: Sequence[str]) -> None:
    """`bai merge` with these arguments.

    Raises:
        BaiPipelineError: whatever is refused.
        SystemExit: the arguments are no valid call, or ask for help.
    """
    from bai_pipeline.merging.destination import merge_plan_to
    from bai_pipeline.merging.plan import plan_merge

    options = parser().parse_args(arguments)
    recorded = None
    if options.recipe is not None:
        if options.base or options.sft or options.alpha:
            raise RecipeError("--recipe says what is merged: it goes without --base, --sft and --alpha")
        found, models, recorded = _read_recipe(options.recipe, options.model, options.dtype)
        recipes = {options.out: found}
    else:
        recipes, models = _bai_recipes(options)
    if options.threads is not None and options.threads < 1:
        raise RecipeError(f"--threads: expected at least 1, got {options.threads}; nothing was written")
    tokenizer = options.tokenizer_from or recorded or next(iter(recipes.values())).models[-1]
    plan = plan_merge(list(recipes.values()), models, tokenizer, options.missing_rows_from)
    template = options.chat_template.read_text(encoding="utf-8") if options.chat_template is not None else None
    cache = options.cache.expanduser()
    if options.recipe_only:
        _write_recipes(plan, recipes, template, cache)
        _say({str(path): {"recipe": one.to_dict()} for path, one in recipes.items()}, options.json)
        return
    with progress_to_stderr(quiet=options.json) as report:
        manifests = merge_plan_to(
            plan,
            recipes,
            MERGE_VERSION,
            report,
            chat_template=template,
            max_shard_bytes=None if options.max_shard_size is None else parse_size(options.max_shard_size),
            cache=cache,
            backend=options.backend,
            threads=options.threads,
        )
    summary = {
        str(path): {
            "digest": manifest.digest,
            "parents": manifest.parents,
            "tensors": len(manifest.tensors),
            "recipe": manifest.recipe,
            "missing_rows": manifest.missing_rows,
            "notes": list(plan.fit.notes),
        }
        for path, manifest in manifests.items()
    }
    _say(summary, options.json)


def parse_size(text: str) -> int:
    """Bytes: a number, and perhaps KB, MB, GB, TB (powers of 1000) or KiB, MiB, … (of 1024).

    Raises:
        RecipeError: not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise RecipeError(f"expected a size such as 5GB or 500MiB, got {text!r}; nothing was written")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def _bai_recipes(options: argparse.Namespace) -> tuple[dict[Path, Recipe], dict[str, Path]]:
    """Recipes by their destinations, and where the models lie."""
    if not options.sft:
        raise RecipeError("expected at least one --sft DIR=WEIGHT (or --recipe FILE), got none; nothing was written")
    if (options.base is None) != (not options.alpha):
        raise RecipeError("--base and --alpha go together: alpha is the weight of the base; nothing was written")
    weights: dict[str, float] = {}
    models = _named(options.model)
    for text in options.sft:
        path, weight = _path_and_weight(text, alone=len(options.sft) == 1)
        role = path.resolve().name.removesuffix("_sft")
        name = next(n for n in (role, *(f"{role}_{k}" for k in range(2, 1000))) if n not in weights)
        weights[name], models[f"{name}_sft"] = weight, path
    if options.base is None:
        return {options.out: stage_1_recipe(weights, dtype=options.dtype)}, models
    models["base_model"] = options.base
    recipes = {}
    for text in options.alpha:
        try:
            value = float(text)
        except ValueError:
            raise RecipeError(f"--alpha: expected a number, got {text!r}; nothing was written") from None
        place = options.out if len(options.alpha) == 1 else options.out / text
        recipes[place] = bai_recipe(value, weights, dtype=options.dtype)
    if len(recipes) < len(options.alpha):
        raise RecipeError(f"--alpha: the same one twice in {', '.join(options.alpha)}; nothing was written")
    return recipes, models


def _path_and_weight(text: str, *, alone: bool) -> tuple[Path, float]:
    path, found, weight = text.rpartition("=")
    try:
        return (Path(path), float(weight)) if found else (Path(text), 1.0 if alone else float("nan"))
    except ValueError:
        raise RecipeError(f"--sft: expected DIR=WEIGHT, got {text!r}; nothing was written") from None


def _named(texts: list[str]) -> dict[str, Path]:
    models = {}
    for text in texts:
        name, found, path = text.partition("=")
        if not found or not name or not path:
            raise RecipeError(f"--model: expected NAME=DIR, got {text!r}; nothing was written")
        models[name] = Path(path)
    return models


def _read_recipe(file: Path, model: list[str], dtype: Dtype | None) -> tuple[Recipe, dict[str, Path], str | None]:
    from dataclasses import replace

    from bai_pipeline.merging.mergekit_yaml import mergekit_models, read_mergekit

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read: {error}; nothing was written") from None
    if file.suffix not in (".yaml", ".yml"):
        recipe, models, tokenizer = Recipe.from_json(text), _named(model), None
    else:
        models = mergekit_models(text, str(file)) | _named(model)
        found = read_mergekit(text, str(file), layers=_layers(next(iter(models.values()))))
        recipe, tokenizer = found.recipe, found.tokenizer_from
        for note in found.notes:
            print(note, file=sys.stderr)
    return (recipe if dtype is None else replace(recipe, dtype=dtype)), models, tokenizer


def _layers(directory: Path) -> int | None:
    """How many layers the model has, if its config says so."""
    from bai_pipeline.checkpoints.directory import CONFIG_FILE, read_json_object

    config = read_json_object(directory, CONFIG_FILE)
    count = config.get("num_hidden_layers", (config.get("text_config") or {}).get("num_hidden_layers"))
    return count if isinstance(count, int) else None


def _write_recipes(plan: "MergePlan", recipes: dict[Path, Recipe], template: str | None, cache: Path) -> None:
    from dataclasses import replace

    from bai_pipeline.checkpoints import checkpoint_digest, whole_or_absent
    from bai_pipeline.merging.recipe_directory import write_recipe_directory

    digests = {name: checkpoint_digest(checkpoint.path, cache) for name, checkpoint in plan.checkpoints.items()}
    for path, recipe in recipes.items():
        with whole_or_absent(path) as partial:
            one = replace(plan, recipes=(recipe,))
            write_recipe_directory(one, partial, chat_template=template, digests=digests)


def _say(summary: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        for path in summary:
            print(path)
