"""JSON messages over a stream, each after its length in eight bytes, big-endian."""

import json
import os
import struct
from typing import Any

LENGTH = struct.Struct(">Q")
PIECE = 1 << 20
"""Bytes read at once."""


class LinkError(ValueError):
    """What came is no message, or is longer than what is accepted."""


class LinkClosed(EOFError):
    """The other end is closed."""


def pack(message: dict[str, Any]) -> bytes:
    """A message as it travels: ASCII, so that lone surrogates travel too."""
    content = json.dumps(message, separators=(",", ":")).encode("ascii")
    return LENGTH.pack(len(content)) + content


class Link:
    """One end of a stream of messages."""

    def __init__(self, descriptor: int, limit: int | None = None) -> None:
        """Take the descriptor; processes that this one starts do not inherit it.

        Args:
            descriptor: of a socket.
            limit: bytes of the longest message that is accepted; None: any.
        """
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._limit = limit

    def send(self, message: dict[str, Any]) -> None:
        """Write a message.

        Raises:
            LinkClosed: the other end is closed.
        """
        rest = memoryview(pack(message))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> dict[str, Any]:
        """Wait for a message.

        Raises:
            LinkClosed: the other end is closed.
            LinkError: not a JSON object, or too long.
        """
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        if self._limit is not None and length > self._limit:
            raise LinkError(f"expected a message of at most {self._limit} bytes, got one of {length}")
        try:
            message = json.loads(self._read(length))
        except (ValueError, RecursionError, MemoryError) as error:
            raise LinkError(f"expected JSON, got {type(error).__name__}") from error
        if not isinstance(message, dict):
            raise LinkError(f"expected a JSON object, got {type(message).__name__}")
        return message

    def _read(self, length: int) -> bytes:
        parts = []
        while length > 0:
            try:
                part = os.read(self._descriptor, min(length, PIECE))
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if not part:
                raise LinkClosed("the other end is closed")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
