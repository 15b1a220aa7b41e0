"""What a job is given, and what it gives back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path

from bai_pipeline.jobspec import JobSpec, canonical_json
from bai_pipeline.progress import Reporter, Severity

Metadata = Mapping[str, float | int | str]


@dataclass(frozen=True)
class JobContext:
    """A job at work.

    `inputs` are local directories (or files) by the names of the specification, `work` is private to the job and
    survives a kill, `out` is empty and becomes the job's object.
    """

    spec: JobSpec
    inputs: Mapping[str, Path]
    work: Path
    out: Path
    reporter: Reporter
    cache: Path
    """File that remembers digests of what the user brought."""
    result_of: Callable[[str], "JobResult | None"]
    """What another job of the store reported, by its identity: readings that no result may depend on."""
    save: Callable[[], None] = lambda: None
    """Makes `work` outlive this machine, as it is now: whole or absent. Ranks other than the first need not call it."""


@dataclass(frozen=True)
class Outcome:
    """What a kind of job returns: metadata for the UI and, for what was brought by path, where it lies."""

    metadata: Metadata = field(default_factory=dict)
    brought: Path | None = None
    """Reference this directory instead of publishing `out`."""
    digest: str | None = None
    """Content digest of `brought`."""


def computing_with_models(job: Callable[[JobContext], Outcome]) -> Callable[[JobContext], Outcome]:
    """Of a kind of job: it multiplies in native code where that is faster."""

    @wraps(job)
    def computing(context: JobContext) -> Outcome:
        from bai_pipeline.native import use_native_products

        use_native_products()
        return job(context)

    return computing


@dataclass(frozen=True)
class CheckOutcome:
    """A data-quality check made inside a job."""

    name: str
    passed: bool
    metadata: Metadata
    severity: Severity = "error"


@dataclass(frozen=True)
class JobResult:
    """The outcome of a finished job, kept beside its specification."""

    job: str
    object: str
    digest: str
    metadata: Metadata
    checks: tuple[CheckOutcome, ...]

    def to_json(self) -> str:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "JobResult":
        value = json.loads(text)
        return cls(**{**value, "checks": tuple(CheckOutcome(**check) for check in value["checks"])})
