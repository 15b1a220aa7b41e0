"""Names for objects: which object an asset of a study is now."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bai_pipeline.errors import StoreError
from bai_pipeline.jobspec import canonical_json


@dataclass(frozen=True, order=True)
class RefKey:
    """An asset of a study; `part` is an alpha (or the row of a table), `seed` a PPO seed."""

    study: str
    asset: str
    part: str | None = None
    seed: int | None = None

    @property
    def path(self) -> str:
        """Relative path of the ref: STUDY/ASSET[/PART[/SEED]].json."""
        parts = [self.study, self.asset]
        if self.part is not None:
            parts.append(self.part)
        if self.seed is not None:
            parts.append(str(self.seed))
        for part in parts:
            if not part or part.startswith(".") or "/" in part:
                raise StoreError(f"not a name for a ref: {part!r}")
        return "/".join(parts) + ".json"

    def __str__(self) -> str:
        seed = "" if self.seed is None else f" seed {self.seed}"
        return self.asset + ("" if self.part is None else f"[{self.part}]") + seed


@dataclass(frozen=True)
class Ref:
    """What an asset is: an object, its digest, the job that made it and the digests of that job's inputs."""

    object: str
    """URI: "store:objects/KIND/DIGEST" or "file:///…" for what the user brought."""
    digest: str
    job: str
    inputs: Mapping[str, str]

    def to_json(self) -> str:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> "Ref":
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise StoreError(f"{where} is not a ref: {error}") from error
