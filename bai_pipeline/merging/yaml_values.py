"""Values of a YAML document that know their place: what is read is checked, and a fault names its line and key.

The document is composed and never constructed: tags make no objects, and aliases of aliases take no memory.
"""

import math
import re
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NoReturn

import yaml

from bai_pipeline.errors import RecipeError

_TAG: Final = "tag:yaml.org,2002:"
_NUMBER: Final = re.compile(r"[-+]?(?!0\d)(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
"""Decimal. YAML 1.1 takes `1e-3`, without a point, for text; here it is a number."""
_FLAGS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Value:
    """A value and where it stands."""

    node: yaml.Node
    key: str
    """Such as `models[0].parameters.weight`; empty for the whole document."""
    file: str
    line: int
    """Of its key, where it has one."""

    @property
    def place(self) -> str:
        """FILE:LINE, and the key."""
        return f"{self.file}:{self.line}" + (f": {self.key}" if self.key else "")

    def fields(self, known: Collection[str]) -> dict[str, "Value"]:
        """The values of a mapping by their keys; a key without a value counts as absent.

        Raises:
            RecipeError: no mapping, a key that is not known, or one that appears twice.
        """
        if not self._is("map") or not isinstance(self.node, yaml.MappingNode):
            self.refuse("a mapping")
        found: dict[str, Value] = {}
        for key_node, node in self.node.value:
            name = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "[…]"
            line = key_node.start_mark.line + 1
            value = Value(node, f"{self.key}.{name}" if self.key else name, self.file, line)
            if name not in known:
                value.fail(f"this cannot be carried over, expected one of {', '.join(sorted(known))}")
            if name in found:
                value.fail("this key appears twice")
            found[name] = value
        return {name: value for name, value in found.items() if not value._is("null")}

    @property
    def is_list(self) -> bool:
        return self._is("seq")

    @property
    def is_mapping(self) -> bool:
        return self._is("map")

    def items(self) -> list["Value"]:
        """The values of a list.

        Raises:
            RecipeError: no list.
        """
        if not self._is("seq") or not isinstance(self.node, yaml.SequenceNode):
            self.refuse("a list")
        return [
            Value(node, f"{self.key}[{i}]", self.file, node.start_mark.line + 1)
            for i, node in enumerate(self.node.value)
        ]

    def text(self, expected: str = "text") -> str:
        """A text that is not empty.

        Raises:
            RecipeError: otherwise.
        """
        if not self._is("str") or not isinstance(self.node.value, str) or not self.node.value:
            self.refuse(expected)
        return self.node.value

    def number(self, expected: str = "a number") -> float:
        """A finite number.

        Raises:
            RecipeError: otherwise.
        """
        is_plain = isinstance(self.node, yaml.ScalarNode) and self.node.style is None
        number = math.nan
        if (
            is_plain
            and (self._is("int") or self._is("float") or self._is("str"))
            and _NUMBER.fullmatch(self.node.value)
        ):
            number = float(self.node.value)
        if not math.isfinite(number):
            self.refuse(expected)
        return number

    def flag(self) -> bool:
        """True or false.

        Raises:
            RecipeError: otherwise.
        """
        value = _FLAGS.get(str(self.node.value).lower()) if self._is("bool") else None
        if value is None:
            self.refuse("true or false")
        return value

    def refuse(self, expected: str) -> NoReturn:
        """Raise a RecipeError: expected this, got that."""
        got = reprlib.repr(self.node.value)
        if isinstance(self.node, yaml.CollectionNode):
            got = "a mapping" if isinstance(self.node, yaml.MappingNode) else "a list"
        self.fail(f"expected {expected}, got {got}")

    def fail(self, fault: str) -> NoReturn:
        """Raise a RecipeError that names this place."""
        raise RecipeError(f"{self.place}: {fault}; no checkpoint was written")

    def _is(self, kind: str) -> bool:
        return bool(self.node.tag == _TAG + kind)


def read_yaml(text: str, file: str) -> Value:
    """The value of a document.

    Raises:
        RecipeError: not YAML, or empty.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{file} is not valid YAML: {error}") from None
    if node is None:
        raise RecipeError(f"{file}: expected a mapping, the file is empty")
    return Value(node, "", file, node.start_mark.line + 1)
