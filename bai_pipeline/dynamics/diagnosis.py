"""All detectors over one run."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType

import pandas as pd

from bai_pipeline.dynamics import critic, entropy, hockey_stick, kl, length, over_optimization, router, truncation
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.dynamics.verdicts import Verdict
from bai_pipeline.dynamics_settings import DynamicsSettings

Detect = Callable[[RunTables, DynamicsSettings], Verdict]

DETECTORS: Mapping[str, Detect] = MappingProxyType(
    {
        module.DETECTOR: module.detect
        for module in (length, hockey_stick, over_optimization, critic, kl, truncation, entropy, router)
    }
)
"""By name, in the order in which they are told."""

IN_ORDER = frozenset({"healthy", "steady", "aligned", "calibrated", "within_limit"})
"""Verdicts that ask nothing of a reader."""
COLUMNS = ("detector", "verdict", "confidence", "reason", "evidence")


@dataclass(frozen=True)
class Diagnosis:
    """What every detector says of one run."""

    verdicts: Mapping[str, Verdict]

    def to_dict(self) -> dict[str, dict[str, object]]:
        """By detector: verdict, confidence, reason and evidence, of plain JSON values (a number that is none: null)."""
        return {
            name: {
                "verdict": verdict.verdict,
                "confidence": _plain(verdict.confidence),
                "reason": verdict.reason,
                "evidence": {key: _plain(value) for key, value in verdict.evidence.items()},
            }
            for name, verdict in self.verdicts.items()
        }

    def to_json(self) -> str:
        """`to_dict` as text, the same for the same verdicts."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_frame(self) -> pd.DataFrame:
        """A row per detector: detector, verdict, confidence (NaN if undetermined), reason, evidence (JSON text)."""
        rows = [
            {"detector": name, **entry, "evidence": json.dumps(entry["evidence"], allow_nan=False)}
            for name, entry in self.to_dict().items()
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"confidence": "float64"})

    def to_text(self) -> str:
        """A list for a terminal: verdict, confidence and, below, the reason."""
        width = max(map(len, self.verdicts))
        return "\n".join(
            f"{name:{width}}  {_headline(verdict)}\n{'':{width}}  {verdict.reason}"
            for name, verdict in self.verdicts.items()
        )

    def to_markdown(self) -> str:
        """The same as a Markdown list."""
        return "\n".join(
            f"- **{name}**: {_headline(verdict)}. {verdict.reason}" for name, verdict in self.verdicts.items()
        )


def diagnose(run: RunTables, settings: DynamicsSettings | None = None) -> Diagnosis:
    """Every detector's verdict; default settings where none are given."""
    settings = settings or DynamicsSettings()
    return Diagnosis({name: detect(run, settings) for name, detect in DETECTORS.items()})


def _headline(verdict: Verdict) -> str:
    if verdict.confidence is None:
        return verdict.verdict
    return f"{verdict.verdict} (confidence {min(verdict.confidence, 0.999):.3f})"


def _plain(value: object) -> float | int | str | bool | None:
    if value is None or isinstance(value, bool | int | str):
        return value
    number = float(value)  # type: ignore[arg-type]
    return number if isfinite(number) else None
