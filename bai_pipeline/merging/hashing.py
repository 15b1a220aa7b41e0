"""XXH3-128 that native code can update: the library inside the xxhash package, called through ctypes.

The package's module carries the whole of libxxhash and exports it. Where a build of it does not, `new_hash` gives the
package's own object, and whoever merges hands it the bytes in Python.
"""

import ctypes
import importlib
from functools import cache
from typing import Protocol

import xxhash


class Hash(Protocol):
    """A hash of bytes that come in pieces."""

    def update(self, data: memoryview, /) -> None: ...

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""


class _Digest(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint64), ("high", ctypes.c_uint64))


class _Library:
    """The functions that are used, of xxhash.h."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.create = library.XXH3_createState
        self.create.restype = ctypes.c_void_p
        self.free = library.XXH3_freeState
        self.free.argtypes = (ctypes.c_void_p,)
        self.reset = library.XXH3_128bits_reset
        self.reset.argtypes = (ctypes.c_void_p,)
        # The one that picks the widest vector instructions of this machine, where there is one.
        self.update = getattr(library, "XXH3_128bits_update_dispatch", None) or library.XXH3_128bits_update
        self.update.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self.digest = library.XXH3_128bits_digest
        self.digest.argtypes = (ctypes.c_void_p,)
        self.digest.restype = _Digest


@cache
def _library() -> _Library | None:
    try:
        return _Library(ctypes.CDLL(importlib.import_module("xxhash._xxhash").__file__))
    except (OSError, AttributeError):
        return None


def update_function() -> ctypes.c_void_p:
    """The address of `int update(state, data, length)`; null where there is none."""
    library = _library()
    return ctypes.c_void_p() if library is None else ctypes.cast(library.update, ctypes.c_void_p)


class NativeHash:
    """A hash whose `state` native code can update."""

    def __init__(self, library: _Library) -> None:
        self._library = library
        self.state: int = library.create()
        if not self.state:
            raise MemoryError
        library.reset(self.state)

    def __del__(self) -> None:
        self._library.free(self.state)

    def update(self, data: memoryview, /) -> None:
        self._library.update(self.state, ctypes.addressof(ctypes.c_char.from_buffer(data)), len(data))

    def hexdigest(self) -> str:
        digest = self._library.digest(self.state)
        return f"{digest.high:016x}{digest.low:016x}"


def new_hash() -> Hash:
    """An empty hash."""
    library = _library()
    return xxhash.xxh3_128() if library is None else NativeHash(library)
