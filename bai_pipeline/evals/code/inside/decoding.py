"""Values of plain data; see `encoding` for its form.

Decoding executes nothing: every tag makes a value of a built-in or standard class, whatever the sender wrote.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bai_pipeline.evals.code.inside.encoding import TYPE_NAMES
from bai_pipeline.evals.code.inside.raised import revive

REFUSED = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
"""What decoding raises on data that is not of the encoding, or too much."""

_EMPTY: dict[str, Callable[[], Any]] = {
    "list": list,
    "dict": dict,
    "set": set,
    "bytearray": bytearray,
    "deque": deque,
}

_TYPES = {name: kind for kind, name in TYPE_NAMES.items()}

_LATER: Any = object()


class Decoder:
    """The values of one message."""

    def __init__(self, nodes: Any, handle: Callable[[int], object], given: Mapping[int, object] | None = None) -> None:
        """Build the values.

        Args:
            nodes: of the message.
            handle: the value of a handle.
            given: what an answer may name, by its node in the message that it answers.

        Raises:
            REFUSED: not of the encoding.
        """
        self.mutable: dict[int, Any] = {}
        """What can change, by its node."""
        self._handle = handle
        self._given = given or {}
        self._values: list[Any] = []
        for index, (tag, _) in enumerate(nodes):
            self._values.append(_EMPTY[tag]() if tag in _EMPTY else _LATER)
            if tag in _EMPTY:
                self.mutable[index] = self._values[index]
        for index, (tag, content) in enumerate(nodes):
            if index not in self.mutable:
                self._values[index] = self._build(tag, content)
        for index, value in self.mutable.items():
            self.fill(value, nodes[index][1])

    def value(self, reference: Any) -> Any:
        """What a reference means."""
        if not isinstance(reference, list):
            if reference is None or isinstance(reference, bool | int | float | str):
                return reference
            raise TypeError(f"expected a reference, got {type(reference).__name__}")
        (index,) = reference
        if type(index) is not int or index < 0 or self._values[index] is _LATER:
            raise ValueError(f"expected a reference to an earlier node, got {index!r}")
        return self._values[index]

    def values(self, references: Any) -> list[Any]:
        """What references mean."""
        return [self.value(reference) for reference in references]

    def fill(self, value: Any, content: Any) -> None:
        """Replace the contents of what can change, by its class's own methods: subclasses may override them."""
        match value:
            case bytearray():
                bytearray.__setitem__(value, slice(None), bytes.fromhex(content))
            case dict():
                items = [(self.value(key), self.value(item)) for key, item in content]
                dict.clear(value)
                dict.update(value, items)
            case list():
                list.__setitem__(value, slice(None), self.values(content))
            case set():
                members = set(self.values(content))
                set.clear(value)
                set.update(value, members)
            case deque():
                in_order = self.values(content)
                deque.clear(value)
                deque.extend(value, in_order)
            case _:
                raise TypeError(f"expected a value that can change, got {type(value).__name__}")

    def _build(self, tag: Any, content: Any) -> Any:
        match tag:
            case "int":
                return int(content, 16)
            case "str":
                return bytes.fromhex(content).decode("utf-8", "surrogatepass")
            case "bytes":
                return bytes.fromhex(content)
            case "complex":
                return complex(*content)
            case "tuple":
                return tuple(self.values(content))
            case "frozenset":
                return frozenset(self.values(content))
            case "range":
                return range(*self.values(content))
            case "keys":
                return dict.fromkeys(self.values(content)).keys()
            case "values":
                return dict(enumerate(self.values(content))).values()
            case "items":
                return dict(self.values(content)).items()
            case "type":
                return _TYPES[content]
            case "iterator":
                items, error = content
                return _replay(self.values(items), None if error is None else (str(error[0]), str(error[1])))
            case "given":
                return self._given[content]
            case "handle" if type(content) is int:
                return self._handle(content)
            case "Decimal" | "Fraction":
                return _number(tag, self.values(content) if tag == "Fraction" else [str(content)])
            case _:
                return _moment(tag, content)


def _number(tag: str, arguments: list[Any]) -> Any:
    if tag == "Decimal":
        from decimal import Decimal

        return Decimal(*arguments)
    from fractions import Fraction

    return Fraction(*arguments)


def _moment(tag: Any, content: Any) -> Any:
    import datetime

    match tag:
        case "datetime":
            return datetime.datetime.fromisoformat(content)
        case "date":
            return datetime.date.fromisoformat(content)
        case "time":
            return datetime.time.fromisoformat(content)
        case "timedelta":
            return datetime.timedelta(*content)
        case _:
            raise ValueError(f"expected a tag of the encoding, got {tag!r}")


def _replay(items: list[Any], error: tuple[str, str] | None) -> Iterator[Any]:
    yield from items
    if error is not None:
        raise revive(*error)
