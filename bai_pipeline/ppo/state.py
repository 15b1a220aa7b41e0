"""Checkpoints of a run's own state: whole or absent, and verified before they are loaded.

    state/step-000020/          after 20 steps
        actor/ critic/          DeepSpeed checkpoints (weights, optimizer, learning rate schedule), a part per rank
        digests.json            {step, ranks, zero_stage, trainer, files: {path: SHA-256}}

All ranks write beside the checkpoint's place, then the first one gives it its name by one rename. DeepSpeed loads with
pickle, so nothing is loaded unless every file has its recorded digest and no file is without one.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.ranks import Ranks
from bai_pipeline.progress import Reporter
from bai_pipeline.store.files import fsync_directory, fsync_tree

KEEP = 2
"""Checkpoints that are kept: the newest, and the one before in case the newest is damaged."""

_DIGESTS = "digests.json"
_TAG = "state"

Engines = Mapping[str, Any]
"""DeepSpeed engines by name."""
TrainerState = dict[str, float]


class StateStore:
    """The checkpoints under one directory, which all ranks see."""

    def __init__(self, root: Path, ranks: Ranks, zero_stage: int) -> None:
        self._root, self._ranks, self._zero_stage = root, ranks, zero_stage
        if ranks.is_first:
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(".*"):
                shutil.rmtree(leftover)
        ranks.barrier()

    def steps(self) -> list[int]:
        """Steps after which there is a checkpoint, ascending; none of them is verified yet."""
        return sorted(int(path.name.removeprefix("step-")) for path in self._root.glob("step-*"))

    def save(self, step: int, engines: Engines, trainer: TrainerState) -> None:
        """Keep the state after `step` steps, and drop all but the newest `KEEP`; nothing if it is there."""
        ranks = self._ranks
        if ranks.agree(step in self.steps()):
            return
        temporary = self._root / f".step-{step:06d}"
        if ranks.is_first:
            temporary.mkdir()
        ranks.barrier()
        for name, engine in engines.items():
            engine.save_checkpoint(str(temporary / name), tag=_TAG, client_state={"step": step})
        ranks.barrier()
        if ranks.is_first:
            record = {
                "step": step,
                "ranks": ranks.size,
                "zero_stage": self._zero_stage,
                "trainer": trainer,
                "files": _digests(temporary),
            }
            (temporary / _DIGESTS).write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
            fsync_tree(temporary)
            temporary.rename(self._path(step))
            fsync_directory(self._root)
            for old in self.steps()[:-KEEP]:
                self._drop(old)
        ranks.barrier()

    def load_newest(self, engines: Engines, report: Reporter) -> tuple[int, TrainerState | None]:
        """Bring the engines to the newest intact checkpoint, drop damaged ones.

        Returns:
            Its step and what the trainer had given `save`; 0 and None without any.

        Raises:
            TrainingError: there are checkpoints and none is intact, or the run stands on other ranks or another ZeRO
                stage.
        """
        step, record = self._ranks.agree(self._newest(report) if self._ranks.is_first else None)
        if not step:
            return 0, None
        there = (record["ranks"], record["zero_stage"])
        if there != (self._ranks.size, self._zero_stage):
            raise TrainingError(
                f"{self._path(step)} was written by {there[0]} ranks under ZeRO {there[1]}, this is "
                f"{self._ranks.size} under ZeRO {self._zero_stage}; continue with those, or remove {self._root.parent} "
                "to train anew"
            )
        for name, engine in engines.items():
            _, client_state = engine.load_checkpoint(str(self._path(step) / name), tag=_TAG)
            if client_state.get("step") != step:
                raise TrainingError(
                    f"{self._path(step) / name} holds the state after step {client_state.get('step')}, expected {step}"
                )
        trainer: TrainerState = record["trainer"]
        return step, trainer

    def _newest(self, report: Reporter) -> tuple[int, Any]:
        """The newest intact checkpoint's step and record; damaged ones are dropped if there is one."""
        damaged: list[int] = []
        for step in reversed(self.steps()):
            fault = _fault(self._path(step))
            if fault is None:
                for other in damaged:
                    self._drop(other)
                return step, json.loads((self._path(step) / _DIGESTS).read_text(encoding="utf-8"))
            report.log(f"checkpoint {self._path(step)} is damaged and was not loaded: {fault}")
            damaged.append(step)
        if damaged:
            raise TrainingError(
                f"no checkpoint in {self._root} is intact (steps {', '.join(map(str, damaged))}); nothing was loaded, "
                "remove the directory to start the run anew"
            )
        return 0, None

    def _drop(self, step: int) -> None:
        """Take a checkpoint out of sight in one rename, then remove it."""
        hidden = self._root / f".dropped-{step:06d}"
        self._path(step).rename(hidden)
        shutil.rmtree(hidden)

    def _path(self, step: int) -> Path:
        return self._root / f"step-{step:06d}"


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below `directory` but the record itself, by relative path."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / _DIGESTS:
            with path.open("rb") as file:
                digests[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if it is as it was written."""
    try:
        recorded = json.loads((checkpoint / _DIGESTS).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_DIGESTS} cannot be read ({error})"
    found = _digests(checkpoint)
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in recorded:
            return f"{name} does not belong to it"
        if found[name] != recorded[name]:
            return f"{name} has SHA-256 {found[name][:12]}…, recorded was {recorded[name][:12]}…"
    return None
