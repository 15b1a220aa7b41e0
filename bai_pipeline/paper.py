"""What the BAI paper printed: its two result tables and its hyperparameters, each with where it was read.

Zheng et al. 2025, "Balanced Actor Initialization: Stable RLHF Training of Distillation-Based Reasoning Models",
arXiv:2509.00309v1. For comparison only: nothing here was measured by this package.

The PDF itself was not at hand when this file was written. The tables come from a public third-party transcription
(`TRANSCRIPTION`), which is complete for Table 1 and gives three benchmarks of Table 2; the rest is marked
`NOT_AVAILABLE`. Check against the PDF before you quote a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ARXIV: Final = "arXiv:2509.00309v1"
TRANSCRIPTION: Final = (
    "third-party transcription of arXiv:2509.00309v1, github.com/agifrontier/agifrontier.github.io, "
    "_tutorials/balanced-actor-initialization-stable-rlhf-training-of-distillation-based-reasoni.md at commit 5974524; "
    "not checked against the PDF"
)
SPECIFICATION: Final = "this project's specification, quoting the paper; not checked against the PDF"
NOT_AVAILABLE: Final = "not available in this distribution"

BENCHMARKS: Final = (
    "MMLU-Pro",
    "MMLU",
    "SuperGPQA",
    "LiveBench",
    "MixEval-Hard",
    "ArenaHard",
    "AIME 2024",
    "MATH",
    "MBPP+",
)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, in percent."""

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    """Row → column → value; an absent column was not found in the source."""
    source: str


def _row(*values: float) -> dict[str, float]:
    """Values in the order of the benchmarks, then the overall score."""
    return dict(zip((*BENCHMARKS, "Overall"), values, strict=True))


TABLE_1: Final = PaperTable(
    title="Table 1, paradigms and BAI",
    columns=(*BENCHMARKS, "Overall"),
    rows={
        "Paradigm 1": _row(67.8, 80.8, 38.1, 44.4, 48.5, 15.4, 18.7, 80.9, 67.5, 51.3),
        "Paradigm 2": _row(69.7, 82.0, 40.7, 42.3, 50.0, 34.6, 17.3, 77.6, 67.5, 53.6),
        "Paradigm 3": _row(69.2, 80.8, 40.5, 43.0, 51.5, 16.0, 17.7, 77.5, 67.2, 51.5),
        "BAI": _row(70.2, 82.7, 40.6, 44.9, 50.8, 35.9, 21.3, 81.0, 69.3, 55.2),
    },
    source=TRANSCRIPTION,
)

TABLE_2: Final = PaperTable(
    title="Table 2, merging ratios",
    columns=(*BENCHMARKS, "Overall"),
    rows={
        "0.1": {"MMLU-Pro": 70.2, "MMLU": 82.7, "ArenaHard": 35.9},
        "0.2": {"MMLU-Pro": 69.7, "MMLU": 81.3, "ArenaHard": 33.3},
        "0.5": {"MMLU-Pro": 70.7, "MMLU": 80.9, "ArenaHard": 25.2},
        "0.7": {"MMLU-Pro": 68.6, "MMLU": 81.8, "ArenaHard": 16.0},
        "0.9": {"MMLU-Pro": 68.1, "MMLU": 81.3, "ArenaHard": 11.5},
    },
    source=TRANSCRIPTION + "; it labels the table as partial data",
)


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of the paper's experiments."""

    name: str
    value: float | int | str | None
    """None: the paper does not give it."""
    source: str


HYPERPARAMETERS: Final = (
    Hyperparameter("model", "OLMoE-style mixture of experts, 2.5B active of 25B parameters", SPECIFICATION),
    Hyperparameter("hardware", "8 nodes x 8 GPUs", SPECIFICATION),
    Hyperparameter("optimizer", "AdamW", SPECIFICATION),
    Hyperparameter("actor_learning_rate", 1e-6, SPECIFICATION),
    Hyperparameter("critic_learning_rate", 1e-6, SPECIFICATION),
    Hyperparameter("learning_rate_schedule", "warm-up, then constant", SPECIFICATION),
    Hyperparameter("warmup_updates", None, SPECIFICATION),
    Hyperparameter("batch_size", 4096, SPECIFICATION),
    Hyperparameter("samples_per_prompt", 1, SPECIFICATION),
    Hyperparameter("mini_batch_size", 512, SPECIFICATION),
    Hyperparameter("lam", 0.95, SPECIFICATION),
    Hyperparameter("gamma", 1.0, SPECIFICATION),
    Hyperparameter("critic_init", "reward model", SPECIFICATION),
    Hyperparameter("clip_range", None, SPECIFICATION),
    Hyperparameter("kl_coef", None, SPECIFICATION),
    Hyperparameter("steps", 1600, SPECIFICATION),
    Hyperparameter("steps of two longer runs", 3000, SPECIFICATION),
    Hyperparameter("stage 1 weights", "0.5 instruct, 0.5 reasoning", TRANSCRIPTION),
    Hyperparameter("alpha of the length figure (3000 steps)", 0.6, TRANSCRIPTION),
)
