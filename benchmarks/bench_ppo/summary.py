"""Numbers of a report from raw runs: rates, their medians and ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Run = Mapping[str, Any]
Clock = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Summary:
    """Medians over runs, each of its own; within a run all counted steps together."""

    samples_per_cpu: float
    samples_per_wall: float
    tokens_per_cpu: float
    mean_length: float
    peak_rss: float

    @classmethod
    def of(cls, runs: Sequence[Run], batch_size: int) -> "Summary":
        return cls(
            samples_per_cpu=median(rate(run, batch_size, "cpu") for run in runs),
            samples_per_wall=median(rate(run, batch_size, "wall") for run in runs),
            tokens_per_cpu=median(total(run, "tokens") / total(run, "cpu") for run in runs),
            mean_length=median(total(run, "tokens") / total(run, "responses") for run in runs),
            peak_rss=median(run["peak_rss"] for run in runs),
        )


def total(run: Run, field: str) -> float:
    """Of all laps."""
    return float(sum(lap[field] for lap in run["laps"]))


def rate(run: Run, batch_size: int, clock: Clock) -> float:
    """Responses a second."""
    return batch_size * len(run["laps"]) / total(run, clock)


def ratios(runs: Sequence[Run], others: Sequence[Run], batch_size: int, clock: Clock) -> list[float]:
    """How many times the others' rate, round by round."""
    pairs = zip(runs, others, strict=True)
    return [rate(run, batch_size, clock) / rate(other, batch_size, clock) for run, other in pairs]


def phase_seconds(runs: Sequence[Run]) -> dict[str, float]:
    """CPU seconds a step of each phase: the median over the runs of their means."""
    names = dict.fromkeys(name for run in runs for lap in run["laps"] for name in lap["phases"])
    return {
        name: median(sum(lap["phases"].get(name, 0.0) for lap in run["laps"]) / len(run["laps"]) for run in runs)
        for name in names
    }


def fastest(pilot: Mapping[str, Run], batch_size: int) -> str:
    """The name with the most responses a CPU second."""
    return max(pilot, key=lambda name: rate(pilot[name], batch_size, "cpu"))
