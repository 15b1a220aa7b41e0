"""The process that runs a program and answers calls of what it defines.

    … candidate.main(LINK, LIMITS)

LINK is the number of a socket's descriptor, LIMITS a JSON object for `confine`. What is written to LINK comes from the
program, whatever this module does: the program runs in this process and may replace all of it. So the other end
trusts none of it.

    → {"hello": true}
    {"load": source, "names": [str]}                     → an answer whose value is a dict of the names that it has
    {"do": operation, "nodes": …, "value": reference}    → an answer; the value is (target, arguments, keywords)

An answer is {"nodes", "value", "changed": [[node of the request, contents]]} or {"nodes", "error": [name, text],
"changed"}.
"""

import copy
import json
import operator
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from bai_pipeline.evals.code.inside.confinement import confine, leave_first_process
from bai_pipeline.evals.code.inside.decoding import Decoder
from bai_pipeline.evals.code.inside.encoding import Encoder
from bai_pipeline.evals.code.inside.link import Link, LinkClosed
from bai_pipeline.evals.code.inside.raised import Attempt, describe

PROGRAM = "program"
"""The program's `__name__`: not "__main__", so that what is to run as a script only does not."""

OPERATIONS: dict[str, Callable[..., Any]] = {
    "attribute": getattr,
    "call": lambda target, *arguments, **keywords: target(*arguments, **keywords),
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "item": operator.getitem,
    "iterate": lambda target: (item for item in target),
    "length": len,
    "text": str,
    "truth": bool,
}
"""What may be asked of a value that stays here. No operation with a value that a test compares to is among them."""


def main() -> None:
    """Serve until the other end is closed."""
    descriptor, limits = sys.argv[1:]
    leave_first_process()
    link = Link(int(descriptor))
    confine(json.loads(limits))
    link.send({"hello": True})
    program = Program()
    try:
        while True:
            link.send(program.answer(link.receive()))
    except LinkClosed:
        return


class Program:
    """A program that was loaded, and what it made."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._handles: dict[int, int] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load the program, or do what is asked."""
        if "load" in request:
            with Attempt() as attempt:
                value = self._load(request["load"], request["names"])
            return self._answer(None if attempt.error else value, attempt.error, {}, {})
        decoder = Decoder(request["nodes"], self._kept.__getitem__)
        target, arguments, keywords = decoder.value(request["value"])
        before = {node: _elements(value) for node, value in decoder.mutable.items()}
        with Attempt() as attempt:
            value = OPERATIONS[request["do"]](target, *arguments, **keywords)
        return self._answer(None if attempt.error else value, attempt.error, decoder.mutable, before)

    def _load(self, source: str, names: list[str]) -> dict[str, Any]:
        module = types.ModuleType(PROGRAM)
        sys.modules[PROGRAM] = module
        exec(compile(source, f"<{PROGRAM}>", "exec", dont_inherit=True), vars(module))
        found = {name: vars(module)[name] for name in names if name in vars(module)}
        return {name: value for name, value in found.items() if not isinstance(value, types.ModuleType)}

    def _answer(
        self, value: object, error: BaseException | None, given: Mapping[int, Any], before: Mapping[int, list[Any]]
    ) -> dict[str, Any]:
        encoder = Encoder(self._keep, given)
        answer: dict[str, Any] = {"nodes": encoder.nodes}
        with Attempt() as attempt:
            answer |= {"error": describe(error)} if error is not None else {"value": encoder.value(value)}
            # Last: what an iterator gives travels too, and giving it may change arguments.
            answer["changed"] = [
                [node, encoder.contents(given[node])]
                for node in given
                if not _same(before[node], _elements(given[node]))
            ]
        if attempt.error is not None:
            return {"nodes": [], "changed": [], "error": describe(attempt.error)}
        return answer

    def _keep(self, value: object) -> int:
        handle = self._handles.setdefault(id(value), len(self._kept))
        if handle == len(self._kept):
            self._kept.append(value)
        return handle


def _elements(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    return list(value)


def _same(before: list[Any], after: list[Any]) -> bool:
    """Whether the elements are the very same: equality would be the program's."""
    return len(before) == len(after) and all(one is other for one, other in zip(before, after, strict=True))
