"""Policies as plain Hugging Face directories, and the ones that a run keeps."""

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from bai_pipeline.checkpoints.directory import tokenizer_files
from bai_pipeline.quiet import quiet_transformers
from bai_pipeline.store.files import fsync_directory, fsync_tree


def policy_name(step: int) -> str:
    """Directory name of the policy after `step` steps."""
    return f"step-{step:06d}"


def save_policy(model: PreTrainedModel, tokenizer_from: Path, out: Path) -> None:
    """Write weights (safetensors), config and generation config; copy the tokenizer of `tokenizer_from` unchanged."""
    with quiet_transformers():
        model.save_pretrained(out)
    for name, source in tokenizer_files(tokenizer_from).items():
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, out / name)


class KeptPolicies:
    """The policies that outlive the training state, under one directory; each is whole or absent."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".*"):
            shutil.rmtree(leftover)

    def resume(self, step: int) -> None:
        """Drop the policies from after `step`: they will be made again."""
        for later in self.steps():
            if later > step:
                hidden = self._root / f".{policy_name(later)}"
                self.path(later).rename(hidden)
                shutil.rmtree(hidden)

    def steps(self) -> list[int]:
        """Steps after which the policy is kept, ascending."""
        return sorted(int(path.name.removeprefix("step-")) for path in self._root.glob("step-*"))

    def save(self, step: int, model: PreTrainedModel, tokenizer_from: Path) -> None:
        """Keep the policy after `step` steps, unless it is kept already."""
        if step in self.steps():
            return
        temporary = self._root / f".{policy_name(step)}"
        save_policy(model, tokenizer_from, temporary)
        fsync_tree(temporary)
        temporary.rename(self.path(step))
        fsync_directory(self._root)

    def path(self, step: int) -> Path:
        """Where the policy after `step` steps is, if it is kept."""
        return self._root / policy_name(step)
