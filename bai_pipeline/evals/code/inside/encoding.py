"""Python values as plain data.

The values of a message are a list of nodes, and references. A reference is a scalar (None, bool, float, an int of 64
bits, a str without lone surrogates) or [i], the i-th node. A node is [tag, content]. So nesting is never deep, what is
shared stays shared, and cycles close.

Subclasses travel as their base (Counter as dict, a named tuple as tuple), numpy's scalars and arrays as Python
numbers and lists, iterators as what they would give. Anything else stays where it is, and a handle travels.

What can change (list, dict, set, bytearray, deque) is known by its node on both sides while a call lasts: the answer
names such a value instead of copying it, and lists the contents of those that the call changed.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from bai_pipeline.evals.code.inside.raised import Attempt, describe

ITERATOR_ITEMS = 10_000
"""Items of an iterator that travel; one that has more raises a RuntimeError after them."""

TYPE_NAMES: dict[type, str] = {
    kind: kind.__name__
    for kind in (
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        bytearray,
        list,
        tuple,
        set,
        frozenset,
        dict,
        object,
        type(None),
    )
}
"""Classes that travel by name."""

MUTABLE = {
    "builtins.list": "list",
    "builtins.dict": "dict",
    "builtins.set": "set",
    "builtins.bytearray": "bytearray",
    "collections.deque": "deque",
}
"""Tags of what can change, by qualified class name."""

PLAIN: dict[str, Callable[[Any], Any]] = {
    "builtins.int": int.__pos__,
    "builtins.float": float.__pos__,
    "builtins.str": str.__str__,
}
"""Of an instance of a subclass, the value of the base."""


class Encoder:
    """Collects the nodes of one message."""

    def __init__(self, keep: Callable[[object], int], given: Mapping[int, object] | None = None) -> None:
        """Start an empty message.

        Args:
            keep: gives the handle of a value that cannot travel, or raises TypeError.
            given: what came in the message that this one answers and is named instead of copied, by its node there.
        """
        self.nodes: list[list[Any]] = []
        self.mutable: dict[int, Any] = {}
        """What can change, by its node."""
        self._keep = keep
        self._given = {id(value): node for node, value in (given or {}).items()}
        self._index: dict[int, int] = {}
        self._alive: list[object] = []  # an id means nothing after its object's end
        self._unwritten: list[int] = []

    def value(self, value: object) -> Any:
        """The reference to a value; its nodes are complete when this returns.

        Raises:
            TypeError: `keep` refuses it.
            RecursionError: tuples, frozensets or iterators nested too deep.
        """
        reference = self._reference(value)
        self._write()
        return reference

    def contents(self, value: Any) -> Any:
        """The contents of what can change, to replace those on the other side."""
        contents = self._contents(value)
        self._write()
        return contents

    def references(self, values: Iterable[object]) -> list[Any]:
        """The references to values whose nodes are completed later."""
        return [self._reference(value) for value in values]

    def _write(self) -> None:
        while self._unwritten:
            index = self._unwritten.pop()
            self.nodes[index].append(self._contents(self.mutable[index]))

    def _contents(self, value: Any) -> Any:
        match value:
            case dict():
                return [[self._reference(key), self._reference(item)] for key, item in dict.items(value)]
            case bytearray():
                return bytearray.hex(value)
            case list():
                return self.references(list.__iter__(value))
            case set():
                return self.references(set.__iter__(value))
            case _:
                return self.references(deque.__iter__(value))

    def _add(self, value: object, node: list[Any]) -> list[int]:
        self._alive.append(value)
        self._index[id(value)] = len(self.nodes)
        self.nodes.append(node)
        return [len(self.nodes) - 1]

    def _reference(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is float or (kind is str and _is_text(value)):
            return value
        if kind is int and -(2**63) <= value < 2**63:
            return value
        if id(value) in self._index:
            return [self._index[id(value)]]
        if id(value) in self._given:
            return self._add(value, ["given", self._given[id(value)]])
        for base in kind.__mro__:
            name = f"{base.__module__}.{base.__qualname__}"
            if name in ("numpy.generic", "numpy.ndarray"):
                return self._reference(value.tolist())
            if name in PLAIN and base is not kind:
                return self._reference(PLAIN[name](value))
            if name in MUTABLE:
                reference = self._add(value, [MUTABLE[name]])
                self.mutable[reference[0]] = value
                self._unwritten.append(reference[0])
                return reference
            if name in WRITERS:
                tag, write = WRITERS[name]
                return self._add(value, [tag, write(self, value)])
        if kind is type and value in TYPE_NAMES:
            return self._add(value, ["type", TYPE_NAMES[value]])
        if kind.__module__ in ("builtins", "itertools") and hasattr(kind, "__next__"):
            return self._add(value, ["iterator", self._iterated(value)])
        return self._add(value, ["handle", self._keep(value)])

    def _iterated(self, values: Iterator[object]) -> list[Any]:
        items: list[object] = []
        with Attempt() as attempt:
            items.extend(islice(values, ITERATOR_ITEMS + 1))
        error = describe(attempt.error) if attempt.error is not None else None
        if len(items) > ITERATOR_ITEMS:
            items.pop()
            error = ["RuntimeError", f"an iterator of more than {ITERATOR_ITEMS} items: the others did not travel"]
        return [self.references(items), error]


WRITERS: dict[str, tuple[str, Callable[[Encoder, Any], Any]]] = {
    "builtins.int": ("int", lambda _, value: hex(value)),
    "builtins.str": ("str", lambda _, value: value.encode("utf-8", "surrogatepass").hex()),
    "builtins.bytes": ("bytes", lambda _, value: bytes.hex(value)),
    "builtins.complex": ("complex", lambda _, value: [value.real, value.imag]),
    "builtins.tuple": ("tuple", lambda encoder, value: encoder.references(tuple.__iter__(value))),
    "builtins.frozenset": ("frozenset", lambda encoder, value: encoder.references(frozenset.__iter__(value))),
    "builtins.range": ("range", lambda encoder, value: encoder.references((value.start, value.stop, value.step))),
    "builtins.dict_keys": ("keys", Encoder.references),
    "builtins.dict_values": ("values", Encoder.references),
    "builtins.dict_items": ("items", Encoder.references),
    "decimal.Decimal": ("Decimal", lambda _, value: str(value)),
    "fractions.Fraction": ("Fraction", lambda encoder, value: encoder.references((value.numerator, value.denominator))),
    "datetime.datetime": ("datetime", lambda _, value: value.isoformat()),
    "datetime.date": ("date", lambda _, value: value.isoformat()),
    "datetime.time": ("time", lambda _, value: value.isoformat()),
    "datetime.timedelta": ("timedelta", lambda _, value: [value.days, value.seconds, value.microseconds]),
}
"""By qualified class name, so that no module is imported for it: the tag, and what gives the content."""


def _is_text(value: str) -> bool:
    """Whether a str has no lone surrogate: in JSON two of them are one character."""
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
