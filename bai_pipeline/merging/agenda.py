"""Which thread merges which tensor when."""

import threading
from collections.abc import Mapping, Sequence

from bai_pipeline.checkpoints import TensorInfo


class Agenda:
    """Tensors that wait to be merged, by the file that they are written to.

    The system lets one thread at a time write to a file: two that write to the same one take as long as one (measured
    on tmpfs: 2.4 against 4.7 GB/s). So a thread stays with a file as long as there is work in it, and shares one with
    another thread only when there is no other left. The largest tensors come first, so that no thread is left alone
    with one at the end.
    """

    def __init__(self, layout: Mapping[str, Sequence[TensorInfo]]) -> None:
        self._lock = threading.Lock()
        self._waiting = {
            file: sorted(tensors, key=lambda tensor: tensor.nbytes) for file, tensors in layout.items() if tensors
        }
        self._owners: dict[str, int] = dict.fromkeys(self._waiting, 0)

    def take(self, file: str | None) -> tuple[str, str] | None:
        """The next tensor for a thread that was at work on `file`: (file, name); None when nothing waits."""
        with self._lock:
            if file is not None:
                if file in self._waiting:
                    return file, self._pop(file)
                self._owners[file] -= 1
            if not self._waiting:
                return None
            chosen = min(self._waiting, key=lambda name: (self._owners[name], -self._waiting[name][-1].nbytes))
            self._owners[chosen] += 1
            return chosen, self._pop(chosen)

    def clear(self) -> None:
        """Nothing waits any more."""
        with self._lock:
            self._waiting.clear()

    def _pop(self, file: str) -> str:
        tensors = self._waiting[file]
        name = tensors.pop().name
        if not tensors:
            del self._waiting[file]
        return name
