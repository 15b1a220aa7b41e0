"""What a step leaves behind: rows of the metrics tables (see `metrics`)."""

import resource
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

import torch

from bai_pipeline.ppo import diagnostics
from bai_pipeline.ppo.experience import Experience
from bai_pipeline.ppo.metrics import Row
from bai_pipeline.ppo.prompts import Prompt
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.ppo.rollouts.interface import Rollout

Verdicts = Sequence[bool | None]
"""Per response: correct, wrong, or not known."""


@dataclass(frozen=True)
class StepRecord:
    """What a step adds to the metrics tables."""

    steps: Row
    responses: list[Row]
    prefixes: list[Row]
    samples: list[Row]
    timings: Row


@dataclass
class Means:
    """Weighted means of named numbers."""

    _sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, weight: float, **numbers: float) -> None:
        """One observation of each number."""
        for name, number in numbers.items():
            self._sums[name] += weight * number
            self._weights[name] += weight

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def as_row(self) -> dict[str, float]:
        """The mean of every number."""
        return {name: total / self._weights[name] for name, total in self._sums.items()}


class Stopwatch:
    """Seconds of wall time between marks, and of CPU time in all."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._cpu, self._last = time.process_time(), time.perf_counter()

    def mark(self, column: str) -> None:
        """The time since the last mark was spent on `column`."""
        now = time.perf_counter()
        self._seconds[column], self._last = now - self._last, now

    def as_row(self, ranks: Ranks) -> dict[str, float]:
        """The marks of this rank, and the CPU time and memory of all."""
        used = {
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_rss_bytes": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "peak_gpu_bytes": float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0,
        }
        return {**self._seconds, **ranks.sums(used)}


def rollout_readings(rollout: Rollout, scores: Sequence[float]) -> dict[str, float | int]:
    """The columns of `steps` about the responses; standard deviation of the scores with divisor n."""
    return {
        "length_mean": fmean(rollout.lengths),
        "length_min": min(rollout.lengths),
        "length_max": max(rollout.lengths),
        "truncated_share": fmean(reason == "length" for reason in rollout.finish_reasons),
        "score_mean": fmean(scores),
        "score_std": pstdev(scores),
    }


def accuracy_of(verdicts: Verdicts) -> float | None:
    """Share of correct responses among those whose correctness is known; None if none is."""
    known = [verdict for verdict in verdicts if verdict is not None]
    return fmean(known) if known else None


def response_rows(
    where: Mapping[str, int],
    prompts: Sequence[Prompt],
    rollout: Rollout,
    scores: Sequence[float],
    verdicts: Verdicts | None,
) -> list[Row]:
    """The rows of `responses`; `verdicts` is None in a run whose prompts have no answers."""
    rows: list[Row] = [
        {**where, "prompt_id": prompt.id, "length": length, "score": score, "finish_reason": reason}
        for prompt, length, score, reason in zip(prompts, rollout.lengths, scores, rollout.finish_reasons, strict=True)
    ]
    if verdicts is None:
        return rows
    return [{**row, "correct": verdict} for row, verdict in zip(rows, verdicts, strict=True)]


def prefix_rows(where: Mapping[str, int], experience: Experience, width: int) -> list[Row]:
    """The rows of `prefixes`: how far the critic was from what was earned, by the length of what it had read."""
    sums, counts = diagnostics.value_error_by_prefix(experience.values, experience.earned, experience.mask, width=width)
    buckets = enumerate(zip(sums.tolist(), counts.tolist(), strict=True))
    return [
        {**where, "prefix": bucket * width, "tokens": int(count), "value_error": total / count}
        for bucket, (total, count) in buckets
        if count
    ]


def sample_rows(
    where: Mapping[str, int], prompts: Sequence[Prompt], rollout: Rollout, texts: Sequence[str]
) -> list[Row]:
    """The rows of `samples`."""
    return [
        {**where, "prompt_id": prompt.id, "length": length, "finish_reason": reason, "response": text}
        for prompt, length, reason, text in zip(prompts, rollout.lengths, rollout.finish_reasons, texts, strict=True)
    ]
