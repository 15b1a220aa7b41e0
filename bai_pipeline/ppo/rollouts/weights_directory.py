"""A checkpoint written from a stream of parameters, tensor by tensor, for a program that loads directories."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from bai_pipeline.checkpoints import ITEM_SIZES, ShardFiles, TensorInfo
from bai_pipeline.checkpoints.directory import SINGLE_FILE
from bai_pipeline.errors import TrainingError
from bai_pipeline.ppo.rollouts.interface import Weights
from bai_pipeline.quiet import quiet_transformers

DTYPES: Final[Mapping[str, tuple[str, torch.dtype]]] = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
}
"""Names that vLLM has for them, and those of safetensors and torch."""

IN_MEMORY = Path("/dev/shm")

_SPARE_BYTES = 1 << 26


class CheckpointStream:
    """Writes parameters under the names that checkpoints have, of which transformers packs several in one (experts).

    No more than one parameter is held at a time.
    """

    def __init__(self, policy: Path, dtype: str) -> None:
        """Read the policy's config; its weights are not touched.

        Args:
            policy: directory with a config.
            dtype: of the file, a key of DTYPES.

        Raises:
            TrainingError: another dtype, or an architecture whose tensors cannot be converted one by one.
        """
        if dtype not in DTYPES:
            raise TrainingError(f"expected one of {', '.join(DTYPES)} as dtype of the rollouts, got {dtype!r}")
        self._code, self._dtype = DTYPES[dtype]
        config = AutoConfig.from_pretrained(policy, local_files_only=True)
        with torch.device("meta"), quiet_transformers():
            self._model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        parameters = dict(self._model.named_parameters())
        self._layout = {
            part: tuple(value.shape) for name, whole in parameters.items() for part, value in self._parts(name, whole)
        }
        together = {name: tuple(value.shape) for name, value in _as_saved(self._model, parameters).items()}
        if together != self._layout:
            raise TrainingError(
                f"{type(self._model).__name__} in {policy}: its checkpoint has tensors that are made of several "
                "parameters; they cannot be written as they come"
            )
        names = {id(parameter): name for name, parameter in parameters.items()}
        self._first_names = {
            name: names[id(parameter)] for name, parameter in self._model.named_parameters(remove_duplicate=False)
        }

    @property
    def config(self) -> Any:
        """The policy's transformers config."""
        return self._model.config

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(map(prod, self._layout.values())) * ITEM_SIZES[self._code]

    def write(self, weights: Weights, directory: Path) -> None:
        """Write config and weights.

        Args:
            weights: names of the module's parameters or of the checkpoint's tensors; tied ones under any of theirs.
            directory: empty.

        Raises:
            TrainingError: tensors are missing, unknown or of another shape; raised at the end, as other ranks may wait
                for this one to go through all of `weights`.
            CheckpointError: no room.
        """
        self.config.architectures = [type(self._model).__name__]
        self.config.save_pretrained(directory)
        tensors = [TensorInfo(name, self._code, shape, directory, 0) for name, shape in self._layout.items()]
        files = ShardFiles(directory, {SINGLE_FILE: tensors})
        written: set[str] = set()
        unknown: list[str] = []
        misshapen: list[str] = []
        for name, tensor in weights:
            for part, value in self._parts(self._first_names.get(name, name), tensor.detach()):
                if part not in self._layout:
                    unknown.append(part)
                elif self._layout[part] != value.shape:
                    misshapen.append(f"{part} {list(value.shape)} instead of {list(self._layout[part])}")
                else:
                    with files.open(part) as place:
                        place.write(_bytes_of(value, self._dtype), 0)
                written.add(part)
        missing = self._layout.keys() - written
        faults = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
        if found := [f"{fault}: {', '.join(sorted(names))}" for fault, names in faults.items() if names]:
            raise TrainingError(
                f"the weights do not fit a {type(self._model).__name__} of the policy's config: {'; '.join(found)}; "
                "nothing was sampled from them"
            )

    def _parts(self, name: str, tensor: Tensor) -> Iterable[tuple[str, Tensor]]:
        return _as_saved(self._model, {name: tensor}).items()


def private_directory(nbytes: int) -> Path:
    """A new directory that only this user can read: in memory if there is room for that many bytes, else on disk."""
    in_memory = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > nbytes + _SPARE_BYTES
    return Path(tempfile.mkdtemp(prefix="bai-rollouts-", dir=IN_MEMORY if in_memory else None))


def _as_saved(model: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as `save_pretrained` names and splits them."""
    converted: dict[str, Tensor] = revert_weight_conversion(model, dict(state))
    return converted


def _bytes_of(tensor: Tensor, dtype: torch.dtype) -> memoryview:
    whole = tensor.to("cpu", dtype).contiguous().reshape(-1)
    return memoryview(whole.view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy has no stub
