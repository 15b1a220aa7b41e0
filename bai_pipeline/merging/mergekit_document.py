"""What stands in a mergekit configuration: method, models, parameters, dtype and tokenizer, checked by key and line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bai_pipeline.merging.recipe import Dtype
from bai_pipeline.merging.yaml_values import Value, read_yaml

_KEYS: Final = frozenset(
    {"merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype"}
    | {"tokenizer_source", "tokenizer"}
)
_DTYPES: Final[Mapping[str, Dtype]] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_TASK_VECTORS: Final = frozenset({"weight", "density", "lambda", "normalize"})
PARAMETERS: Final[Mapping[str, frozenset[str]]] = {
    "linear": frozenset({"weight", "normalize"}),
    "slerp": frozenset({"t"}),
    "task_arithmetic": _TASK_VECTORS - {"density"},
    "ties": _TASK_VECTORS,
    "dare_linear": _TASK_VECTORS | {"rescale"},
    "dare_ties": _TASK_VECTORS | {"rescale"},
}
"""The methods in common, and what they read."""
_PER_MODEL: Final = frozenset({"weight", "density"})
IGNORED: Final = frozenset({"int8_mask"})
"""Parameters that change how much memory mergekit takes and nothing else."""


@dataclass(frozen=True)
class Source:
    """A model and its own parameters."""

    path: Path
    value: Value
    parameters: Mapping[str, Value]
    layers: tuple[Value, int, int] | None = None
    """Where a slice is cut out of it: place, first layer and the one after the last."""


@dataclass(frozen=True)
class Configuration:
    """A whole configuration."""

    method: str
    place: str
    """Of the method's name."""
    sources: Mapping[str, Source]
    """By unique names: the last component of a path, numbered where two are the same. The base is the first."""
    has_base: bool
    parameters: Mapping[str, Value]
    """For all models."""
    dtype: Dtype | None
    tokenizer_from: str
    tokenizer_path: Path


def read_configuration(text: str, file: str) -> Configuration:
    """The configuration in a YAML text.

    Raises:
        RecipeError: it is none, or says what a recipe cannot.
    """
    document = read_yaml(text, file)
    top = document.fields(_KEYS)
    if "merge_method" not in top:
        document.fail("merge_method is missing")
    method = top["merge_method"].text()
    if method not in PARAMETERS:
        top["merge_method"].refuse(f"one of {', '.join(PARAMETERS)}")
    sources = _sources(document, top, PARAMETERS[method] & _PER_MODEL)
    base = top.get("base_model")
    if base is not None:
        path = _path(base)
        own = [source for source in sources if source.path == path] or [Source(path, base, {})]
        sources = own + [source for source in sources if source.path != path]
    paths = [source.path for source in sources]
    tokenizer = _tokenizer_path(top, paths[0])
    names = _unique_names(paths if tokenizer in paths else [*paths, tokenizer])
    return Configuration(
        method,
        top["merge_method"].place,
        {names[source.path]: source for source in sources},
        base is not None,
        top["parameters"].fields(PARAMETERS[method] | IGNORED) if "parameters" in top else {},
        _dtype(top),
        names[tokenizer],
        tokenizer,
    )


def _sources(document: Value, top: Mapping[str, Value], parameters: frozenset[str]) -> list[Source]:
    if ("models" in top) == ("slices" in top):
        document.fail("expected either models or slices")
    if "models" in top:
        sources = [_source(item, parameters, set()) for item in top["models"].items()]
        place = top["models"]
    else:
        slices = top["slices"].items()
        if len(slices) != 1:
            top["slices"].fail("layers cannot be stacked, expected one slice with all layers of every model")
        place = slices[0].fields({"sources"}).get("sources", slices[0])
        sources = [_source(item, parameters, {"layer_range"}) for item in place.items()]
    if not sources:
        place.fail("expected at least one model, there are none")
    for number, source in enumerate(sources):
        if source.path in [other.path for other in sources[:number]]:
            source.value.fail(f"the model {source.path} appears twice")
    return sources


def _source(item: Value, parameters: frozenset[str], more: set[str]) -> Source:
    fields = item.fields({"model", "parameters"} | more)
    for name in sorted(({"model"} | more) - fields.keys()):
        item.fail(f"{name} is missing")
    own = fields["parameters"].fields(parameters) if "parameters" in fields else {}
    source = Source(_path(fields["model"]), item, own)
    if not more:
        return source
    ends = [end.number() for end in fields["layer_range"].items()]
    if len(ends) != 2 or not all(end.is_integer() for end in ends):
        fields["layer_range"].refuse("the first layer and the one after the last")
    return replace(source, layers=(fields["layer_range"], int(ends[0]), int(ends[1])))


def _path(value: Value) -> Path:
    text = value.text("the directory of a model")
    if "+" in text or "@" in text:
        value.fail(f"adapters (+) and revisions (@) are not read, expected the directory of a model, got {text!r}")
    return Path(text)


def _unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    names: dict[Path, str] = {}
    for path in paths:
        name = path.name or "model"
        candidates = (name if number == 1 else f"{name}_{number}" for number in range(1, len(paths) + 1))
        names[path] = next(candidate for candidate in candidates if candidate not in names.values())
    return names


def _dtype(top: Mapping[str, Value]) -> Dtype | None:
    """That of the output: `out_dtype`, else `dtype`, which is also mergekit's for the arithmetic."""
    found: Dtype | None = None
    for key in ("dtype", "out_dtype"):
        if key in top:
            name = top[key].text().removeprefix("torch.")
            if name not in _DTYPES:
                top[key].refuse(f"one of {', '.join(_DTYPES)}")
            found = _DTYPES[name]
    return found


def _tokenizer_path(top: Mapping[str, Value], base: Path) -> Path:
    """The model that gives the tokenizer: the base unless another is named."""
    source = top.get("tokenizer_source")
    if "tokenizer" in top:
        if source is not None:
            source.fail("expected either tokenizer_source or tokenizer")
        source = top["tokenizer"].fields({"source"}).get("source")
        if source is None:
            top["tokenizer"].fail("source is missing")
    if source is None:
        return base
    if source.text() == "union":
        source.fail("vocabularies are not united, expected base or the directory of a model")
    if source.text() == "base":
        if "base_model" not in top:
            source.fail("base_model is missing")
        return base
    return _path(source)
