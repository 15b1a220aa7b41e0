"""YAML that remembers where each value stands, so that a fault can name its file and line."""

from pathlib import Path
from typing import Any

import yaml

from bai_pipeline.errors import StudyError

Location = tuple[str | int, ...]
"""Keys and indices from the root of a document to a value."""


class _Loader(yaml.SafeLoader):
    """Safe loading only: no tag constructs an object."""


def load_with_lines(path: Path) -> tuple[dict[str, Any], dict[Location, str]]:
    """Parse a YAML mapping.

    Returns:
        The mapping, and for every value in it (by `Location`) the place "FILE:LINE" of its key.

    Raises:
        StudyError: not readable, not YAML, not a mapping, or a key that appears twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"cannot read the study file {path}: {error}") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        places: dict[Location, str] = {}
        if node is not None:
            faults: list[str] = []
            _locate(node, (), path, places, faults)
            if faults:
                raise StudyError("\n".join(faults))
        value = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path} must hold a mapping of study keys, got {type(value).__name__}")
    return value, places


def _locate(node: yaml.Node, at: Location, path: Path, places: dict[Location, str], faults: list[str]) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = key.value
            line = key.start_mark.line + 1
            if name in seen:
                faults.append(f"{path}:{line}: the key {name!r} appears twice")
            seen.add(name)
            places[(*at, name)] = f"{path}:{line}"
            _locate(value, (*at, name), path, places, faults)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            places[(*at, index)] = f"{path}:{value.start_mark.line + 1}"
            _locate(value, (*at, index), path, places, faults)
