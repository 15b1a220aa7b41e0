"""What every contestant does, and how it tells what that cost. Standard library only: TRL's environment has no more in
common with ours.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

PAD: Final = 0
EOS: Final = 2


@dataclass(frozen=True)
class Task:
    """Read by all from one file."""

    root: str
    """Directory with actor/, reward/ (which is the critic's start too), prompts.parquet and prompts.json."""
    eos_probability: float
    """Of the end token at every position; 0: it cannot be drawn, and every response has `new_tokens` tokens."""
    prompt_tokens: int = 32
    new_tokens: int = 128
    batch_size: int = 64
    """Responses a step; one epoch."""
    mini_batch_size: int = 16
    """Responses an optimizer update."""
    warmup: int = 1
    """First steps, which are not counted."""
    steps: int = 3
    """Steps that are counted."""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """The contestant's own."""

    @property
    def rounds(self) -> int:
        """Steps in all."""
        return self.warmup + self.steps

    @classmethod
    def read(cls, path: str | Path) -> "Task":
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass
class Clock:
    """Laps of this process, one a step: wall and CPU seconds (of all its threads), and the CPU seconds of phases."""

    laps: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A lap begins now."""
        self._phases: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._mark = self._cpu

    def mark(self, phase: str) -> None:
        """The time since the last mark was that phase's."""
        now = time.process_time()
        self._phases[phase] = self._phases.get(phase, 0.0) + now - self._mark
        self._mark = now

    def lap(self, lengths: Sequence[int]) -> None:
        """A step is done, and the next begins; `lengths` are the tokens of each response."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        drawn = {"responses": len(lengths), "tokens": sum(lengths), "shortest": min(lengths), "longest": max(lengths)}
        self.laps.append({"wall": wall, "cpu": cpu, **drawn, "phases": self._phases})
        self.restart()

    def write(self, path: str | Path, warmup: int, **facts: Any) -> None:
        """The laps after the warm-up, and what else the contestant has to say, as JSON."""
        text = json.dumps({"laps": self.laps[warmup:], **facts})
        Path(path).write_text(text, encoding="utf-8")
