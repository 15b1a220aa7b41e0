"""Job specification v1: what a job is (hashed into its identity) and how it is run (not hashed).

The same canonical JSON is read by a local subprocess and by a pod. Two specifications with the same identity give the
same result, so a job whose result exists is never run again, and a job started again continues where it stopped.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bai_pipeline.errors import JobError

VERSION = 1
Json = dict[str, Any]


def canonical_json(value: object) -> str:
    """JSON with sorted keys, no spaces and no NaN: the same value is always the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Execution:
    """How a job is run; changes no result."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    """URI of each input: "store:objects/…" (relative to the store) or "file:///…" (brought by the user)."""
    until_step: int | None = None
    evaluate_at_step: int | None = None
    checkpoint_every: int | None = None
    on_collapse: str = "observe"
    dynamics: Json = field(default_factory=dict)
    """Thresholds by which a run is watched, `DynamicsSettings`."""
    ranks: int = 1
    """Processes that train together; the compute file's, like all that follows."""
    zero_stage: int = 1
    deepspeed: Json = field(default_factory=dict)
    micro_batch_size: int | None = None
    activation_checkpointing: bool = False
    frozen: str = "plain"
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobSpec:
    """One job: kind, the digests of its inputs, its settings and its seed.

    `inputs` maps the name a job knows an input by to that input's digest.
    """

    kind: str
    code_version: str
    inputs: Mapping[str, str]
    settings: Json
    seed: int | None = None
    execution: Execution = field(default_factory=Execution)

    @property
    def identity(self) -> str:
        """32 hexadecimal digits of the SHA-256 of the hashed part."""
        hashed = {
            "version": VERSION,
            "kind": self.kind,
            "code_version": self.code_version,
            "inputs": dict(self.inputs),
            "settings": self.settings,
            "seed": self.seed,
        }
        return hashlib.sha256(canonical_json(hashed).encode()).hexdigest()[:32]

    def to_json(self) -> str:
        return canonical_json({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "JobSpec":
        """Read a specification back.

        Raises:
            JobError: not a specification of this version.
        """
        value = json.loads(text)
        if not isinstance(value, dict) or value.pop("version", None) != VERSION:
            raise JobError(f"expected a job specification of version {VERSION}, got {text[:80]!r}")
        try:
            execution = Execution(**value["execution"])
            return cls(**{**value, "execution": replace(execution, trackers=tuple(execution.trackers))})
        except (KeyError, TypeError) as error:
            raise JobError(f"malformed job specification: {error}") from error
