"""What a detector says of a run."""

from collections.abc import Mapping
from dataclasses import dataclass

UNDETERMINED = "undetermined"
"""The verdict where a run is too short, too noisy or too poor in columns for any other."""

Evidence = Mapping[str, float | int | str | bool | None]


@dataclass(frozen=True)
class Verdict:
    """One detector's answer for one run."""

    detector: str
    verdict: str
    """A word of the detector's own, see its module, or `UNDETERMINED`."""
    confidence: float | None
    """In [0, 1], as the detector defines it; None where nothing is determined."""
    reason: str
    """One or two sentences, with the numbers."""
    evidence: Evidence
    """The numbers that the verdict rests on."""

    @property
    def determined(self) -> bool:
        """Whether the data sufficed."""
        return self.verdict != UNDETERMINED


def undetermined(detector: str, reason: str, **evidence: float | int | str | bool | None) -> Verdict:
    """Too little data: `reason` says what is missing."""
    return Verdict(detector, UNDETERMINED, None, reason, evidence)
