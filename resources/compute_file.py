"""The compute file: where jobs run and with what. It changes no result and no job's identity.

kind: local                       # the default without a file

kind: kubernetes                  # or trainjob: PPO and supervised training over several nodes
image: registry.example/bai-jobs:1.0
store_claim: bai-store
jobs:
  default: {cpu: "2", memory: 8Gi}
  ppo: {cpu: "16", memory: 128Gi, gpus: 8}
ppo: {ranks: 8}
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from bai_pipeline.errors import ComputeError, StudyError
from bai_pipeline.yaml_lines import Location, load_with_lines
from resources.cluster_settings import KubernetesSettings, TrainJobSettings
from resources.job_settings import JobsSettings, Seconds


class LocalSettings(JobsSettings):
    """Jobs as subprocesses on this machine."""

    kind: Literal["local"] = "local"
    command: Annotated[tuple[str, ...], Field(min_length=1)] = (sys.executable, "-m", "bai_pipeline.jobs")
    """What a job is started with (another Python, a wrapper such as nice); the URI of its specification is appended."""
    preload: bool = False
    """Fork jobs from a process that has torch imported, one for each Dagster run: saves some seconds a job."""
    termination_grace: Seconds = 10.0
    """Seconds between SIGTERM and SIGKILL when a run is cancelled."""


AnySettings = LocalSettings | KubernetesSettings | TrainJobSettings
ComputeSettings = Annotated[AnySettings, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnySettings] = TypeAdapter(ComputeSettings)
_KINDS = ("local", "kubernetes", "trainjob")


def load_compute(path: Path | None) -> AnySettings:
    """Read a compute file; None is `local` with its defaults.

    Raises:
        ComputeError: every fault of the file at once, each with its line.
    """
    if path is None:
        return LocalSettings()
    try:
        raw, places = load_with_lines(path)
    except StudyError as error:
        raise ComputeError(str(error).replace("the study file", "the compute file")) from error
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as error:
        faults = [
            fault
            for found in error.errors()
            for fault in _faults(found["loc"], found["msg"], found["type"], places, path)
        ]
        raise ComputeError(f"{path} is not a valid compute file:\n  " + "\n  ".join(faults)) from error


def _faults(at: Location, message: str, kind: str, places: Mapping[Location, str], path: Path) -> Iterator[str]:
    """A fault of one field; what several fields say together comes as lines "field: message", each with its place."""
    field = at[1:] if at[:1] in {(name,) for name in _KINDS} else at
    field = field[:-1] if field[-1:] == ("[key]",) else field  # pydantic's way to say that it is the key itself
    message = message.removeprefix("Value error, ")
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        yield f"{places.get(('kind',), path)}: kind: must be local, kubernetes or trainjob"
    elif field:
        said = "unknown key" if kind == "extra_forbidden" else message
        yield f"{_place(field, places, path)}: {'.'.join(map(str, field))}: {said}"
    else:
        for line in message.splitlines():
            named = tuple(line.partition(": ")[0].split("."))
            yield f"{_place(named, places, path)}: {line}"


def _place(field: Location, places: Mapping[Location, str], path: Path) -> str:
    """Where a field stands, or what it is a part of."""
    return next((places[field[:n]] for n in range(len(field), 0, -1) if field[:n] in places), str(path))
