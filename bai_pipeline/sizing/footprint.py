"""What is held in memory, and when: items of bytes, each with the phases of a PPO step in which it exists."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, NamedTuple

Dtype = Literal["float32", "bfloat16"]

ELEMENT_BYTES: Final = {"float32": 4, "bfloat16": 2}


class Phase(StrEnum):
    """Phases of a step in their order, after the loading of the models. Memory is the maximum over them."""

    LOAD = "load"
    SAMPLE = "sample"
    ESTIMATE = "estimate"
    """Scores, the probe, log-probabilities under the reference, values, advantages."""
    ACTOR_BACKWARD = "actor backward"
    ACTOR_STEP = "actor step"
    CRITIC_BACKWARD = "critic backward"
    CRITIC_STEP = "critic step"


ALWAYS: Final = frozenset(Phase)
TRAINING: Final = frozenset(Phase) - {Phase.LOAD}
"""Once the models are loaded and the engines are built."""


class Item(NamedTuple):
    """Bytes of one rank."""

    name: str
    nbytes: int
    phases: frozenset[Phase] = TRAINING
    on_host: bool = False
    """In the machine's memory, not the GPU's."""


@dataclass(frozen=True)
class Footprint:
    """The memory of one rank."""

    items: tuple[Item, ...]

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Footprint":
        """Of the items that have bytes."""
        return cls(tuple(item for item in items if item.nbytes))

    def place(self, *, on_host: bool) -> "Footprint":
        """What is on the host, or on the GPU."""
        return Footprint(tuple(item for item in self.items if item.on_host == on_host))

    def at(self, phase: Phase) -> int:
        """Bytes of all items that exist in a phase."""
        return sum(item.nbytes for item in self.items if phase in item.phases)

    @property
    def peak_phase(self) -> Phase:
        """The phase that needs most."""
        return max(Phase, key=self.at)

    @property
    def peak(self) -> int:
        """Bytes of the phase that needs most."""
        return self.at(self.peak_phase)

    def breakdown(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Name and bytes by phase; items of one name are added up."""
        found: dict[str, dict[str, int]] = {}
        for item in self.items:
            row = found.setdefault(item.name, {})
            for phase in item.phases:
                row[phase.value] = row.get(phase.value, 0) + item.nbytes
        yield from found.items()
