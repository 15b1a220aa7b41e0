"""Exceptions of code that is not ours: caught whole, told as data, raised again on the other side."""

import builtins
from types import TracebackType

EXCEPTIONS: dict[str, type[Exception]] = {
    name: kind for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, Exception)
}
LONGEST = 1000
"""Characters of a message that travel."""


class ProgramExit(BaseException):
    """The program raised what is no Exception: SystemExit, KeyboardInterrupt or a class of its own."""


class Attempt:
    """`with Attempt() as attempt:` keeps whatever the block raises in `attempt.error`, SystemExit included.

    For the code of a stranger, where every exception is a result.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error
        return True


def describe(error: BaseException) -> list[str]:
    """The name of the nearest built-in exception class, "" when there is none, and the message."""
    text = ""
    with Attempt():
        text = str(error)[:LONGEST]
    if type(error) is ProgramExit:
        return ["", text]
    for kind in type(error).__mro__:
        if EXCEPTIONS.get(kind.__name__) is kind:
            return [kind.__name__, text]
    return ["", f"{type(error).__name__}: {text}" if text else type(error).__name__]


def revive(name: str, text: str) -> BaseException:
    """The exception that was described."""
    kind = EXCEPTIONS.get(name)
    if kind is None:
        return ProgramExit(text)
    try:
        return kind(text)
    except TypeError:  # UnicodeError's kinds want more than a message
        error = kind.__new__(kind, text)
        error.args = (text,)
        return error
