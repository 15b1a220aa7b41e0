"""The process that runs tests, and asks the program's process for all that the program defines.

    … grader.main(CONTROL, LINK, LIMITS)

CONTROL and LINK are numbers of sockets' descriptors, LIMITS is a JSON object for `confine`. CONTROL is the one way to a
verdict, and only this process has it:

    {"program", "tests", "names": [str] | null, "answer_bytes"}
    → {"ready": bool}                 once the program's process is there; the program is not loaded yet
    → {"reason": str, "detail": str}  when the tests ended
"""

import builtins
import json
import sys
import types
from collections.abc import Iterable
from typing import Any

from bai_pipeline.evals.code.inside.confinement import confine, leave_first_process
from bai_pipeline.evals.code.inside.decoding import REFUSED, Decoder
from bai_pipeline.evals.code.inside.encoding import Encoder
from bai_pipeline.evals.code.inside.link import Link, LinkClosed, LinkError
from bai_pipeline.evals.code.inside.raised import Attempt, describe, revive

TESTS = "tests"


class Broken(BaseException):
    """The program's process ended, or did not answer as agreed; no later call is answered."""


class Proxy:
    """A value that stays in the program's process. It is equal to itself only."""

    __slots__ = ("_proxy_handle", "_proxy_remote")

    def __init__(self, remote: "Remote", handle: int) -> None:
        self._proxy_remote = remote
        self._proxy_handle = handle

    def __call__(self, *arguments: object, **keywords: object) -> Any:
        return self._proxy_remote.do("call", self, arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        # numpy asks for __array_interface__, which may hold a memory address; copy and pickle ask for methods.
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"a value of the program's does not show {name}")
        return self._proxy_remote.do("attribute", self, (name,))

    def __getitem__(self, key: object) -> Any:
        return self._proxy_remote.do("item", self, (key,))

    def __iter__(self) -> Any:
        return self._proxy_remote.do("iterate", self)

    def __len__(self) -> Any:
        return self._proxy_remote.do("length", self)

    def __bool__(self) -> Any:
        return self._proxy_remote.do("truth", self)

    def __str__(self) -> Any:
        return self._proxy_remote.do("text", self)

    def __copy__(self) -> Any:
        return self._proxy_remote.do("copy", self)

    def __deepcopy__(self, memo: object) -> Any:
        return self._proxy_remote.do("deep copy", self)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("a value of the program's cannot be pickled")

    def __eq__(self, other: object) -> bool:
        return type(other) is Proxy and other._proxy_handle == self._proxy_handle

    def __hash__(self) -> int:
        return hash(self._proxy_handle)


class Remote:
    """The program in the other process."""

    def __init__(self, link: Link) -> None:
        self.broken: tuple[str, str] | None = None
        """Reason and detail, once the program does not answer any more."""
        self._link = link

    def load(self, program: str, names: Iterable[str]) -> dict[str, Any]:
        """Run the program; what it defines of these names.

        Raises:
            BaseException: what the program raised.
        """
        value = self._ask({"load": program, "names": sorted(names)}, {})
        if not isinstance(value, dict):
            raise self._break("refused", f"expected a dict of names, got {type(value).__name__}")
        return value

    def do(
        self,
        operation: str,
        target: Proxy,
        arguments: tuple[object, ...] = (),
        keywords: dict[str, object] | None = None,
    ) -> Any:
        """Ask for an operation, and let the arguments change as the program changed them.

        Raises:
            BaseException: what the program raised.
            TypeError: an argument cannot travel: a function of the tests', for example.
        """
        encoder = Encoder(self._handle)
        value = encoder.value((target, list(arguments), keywords or {}))
        return self._ask({"do": operation, "nodes": encoder.nodes, "value": value}, encoder.mutable)

    def _ask(self, request: dict[str, Any], given: dict[int, Any]) -> Any:
        if self.broken is not None:
            raise Broken(*self.broken)
        try:
            self._link.send(request)
            answer = self._link.receive()
            decoder = Decoder(answer["nodes"], lambda handle: Proxy(self, handle), given)
            for node, contents in answer["changed"]:
                decoder.fill(given[node], contents)
            if "error" not in answer:
                return decoder.value(answer["value"])
            name, text = answer["error"]
            error = revive(str(name), str(text))
        except LinkClosed:
            raise self._break("crashed", "the program's process ended") from None
        except LinkError as refusal:
            raise self._break("refused", str(refusal)) from None
        except REFUSED as refusal:
            raise self._break("refused", f"an answer is not of the encoding: {type(refusal).__name__}") from None
        raise error

    def _break(self, reason: str, detail: str) -> Broken:
        self.broken = (reason, detail)
        return Broken(reason, detail)

    def _handle(self, value: object) -> int:
        if type(value) is Proxy:
            return value._proxy_handle
        raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the program")


def main() -> None:
    """Run the tests of one job and write the verdict."""
    control_descriptor, link_descriptor, limits = sys.argv[1:]
    leave_first_process()
    control = Link(int(control_descriptor))
    confine(json.loads(limits))
    job = control.receive()
    link = Link(int(link_descriptor), job["answer_bytes"])
    try:
        link.receive()
    except LinkClosed:
        control.send({"ready": False})
        return
    control.send({"ready": True})
    remote = Remote(link)
    with Attempt() as attempt:
        run(remote, job)
    reason, detail = remote.broken or judge(attempt.error, job["tests"])
    control.send({"reason": reason, "detail": detail})


def run(remote: Remote, job: dict[str, Any]) -> None:
    """Execute the tests to their end, with what the program defines of the names that they use.

    A program cannot replace a built-in function, unless the job names it: all() that is always true would pass much.
    """
    code = compile(job["tests"], f"<{TESTS}>", "exec", dont_inherit=True)
    module = types.ModuleType(TESTS)
    sys.modules[TESTS] = module
    names = {name for name in used_names(code) if name not in vars(builtins)} if job["names"] is None else job["names"]
    allowed = {name for name in names if not name.startswith("__")}
    for name, value in remote.load(job["program"], allowed).items():
        if name in allowed:
            setattr(module, name, value)
    exec(code, vars(module))


def used_names(code: types.CodeType) -> set[str]:
    """Global names and attributes that compiled tests mention."""
    inner = (used_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def judge(error: BaseException | None, tests: str) -> tuple[str, str]:
    """Reason and detail of tests that ended without (None) or with an exception."""
    if error is None:
        return "passed", ""
    name, text = describe(error)
    described = ": ".join(part for part in (name, text or failed_line(error, tests)) if part)
    if isinstance(error, AssertionError):
        return "wrong", described
    return "memory" if isinstance(error, MemoryError) else "error", described


def failed_line(error: BaseException, tests: str) -> str:
    """The innermost line of the tests that an exception passed, "" when there is none."""
    trace, number = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == f"<{TESTS}>":
            number = trace.tb_lineno
        trace = trace.tb_next
    return tests.splitlines()[number - 1].strip() if number else ""
