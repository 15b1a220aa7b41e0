"""Merge on load: the tensors of a merge, each computed when a model asks for it, with nothing written."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from bai_pipeline.checkpoints import TensorRecord
from bai_pipeline.errors import CheckpointError, StoreUnavailable
from bai_pipeline.merging.arithmetic import Backend
from bai_pipeline.merging.buffers import CHUNK_ELEMENTS, new_buffer
from bai_pipeline.merging.elements import merge_elements
from bai_pipeline.merging.inputs import Inputs, threads_for
from bai_pipeline.merging.outputs import MemoryOutput
from bai_pipeline.merging.parents import open_parents
from bai_pipeline.merging.plan import MergedTensor, MergePlan
from bai_pipeline.merging.torch_arithmetic import TORCH_DTYPES


class MergedTensors(Mapping[str, "LazyTensor"]):
    """The state dict of a plan's one recipe, bit for bit what `engine.merge` would write.

    Threads may ask for tensors at the same time; a tensor that is asked for twice is computed twice. Whoever loads a
    model from it may swallow an exception, so the first one is kept in `failure`.

    Raises:
        CheckpointError: a model is not what its own manifest records; of a tensor that is known once it has been read.
    """

    def __init__(self, plan: MergePlan, *, backend: Backend = "auto") -> None:
        if len(plan.recipes) != 1:
            raise ValueError(f"expected a plan of one recipe, got {len(plan.recipes)}")
        self.failure: CheckpointError | StoreUnavailable | None = None
        self._plan, self._backend = plan, backend
        self._parents = open_parents(plan.checkpoints, plan.models)
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(threads_for(plan))

    def __getitem__(self, name: str) -> "LazyTensor":
        tensor = self._plan.tensors[name]
        return LazyTensor(self, [tensor], tensor.info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.tensors)

    def __len__(self) -> int:
        return len(self._plan.tensors)

    def joined(self, names: Sequence[str], shape: Sequence[int]) -> "LazyTensor":
        """Tensors of one dtype one after the other, computed in their places, as one tensor of this shape."""
        return LazyTensor(self, [self._plan.tensors[name] for name in names], tuple(shape))

    def compute(self, tensors: Sequence[MergedTensor], content: memoryview) -> None:
        """Compute tensors into `content`, one after the other; several of them by several threads.

        Raises:
            CheckpointError: see `merge_elements`.
        """
        ends = list(accumulate(tensor.info.nbytes for tensor in tensors))
        places = [content[end - tensor.info.nbytes : end] for tensor, end in zip(tensors, ends, strict=True)]
        if len(tensors) == 1:
            self._compute(tensors[0], content)
        else:
            for _ in self._threads.map(self._compute, tensors, places):
                pass

    def _compute(self, tensor: MergedTensor, content: memoryview) -> None:
        hashed = [model for model in self._plan.models if self._parents[model].manifest]
        output = MemoryOutput(content, tensor.info.dtype)
        try:
            with Inputs.open(self._plan, tensor.info.name, self._buffers(), hashed) as inputs:
                merge_elements(self._plan, tensor, inputs, output, self._backend, CHUNK_ELEMENTS)
                for info, model, digest in zip(inputs.tensors, inputs.models, inputs.hashes, strict=True):
                    if digest is not None:
                        self._parents[model].record(info, TensorRecord.of(info, digest.hexdigest()))
        except (CheckpointError, StoreUnavailable) as error:
            self.failure = self.failure or error
            raise

    def _buffers(self) -> list[memoryview]:
        """This thread's own."""
        buffers: list[memoryview] | None = getattr(self._local, "buffers", None)
        if buffers is None:
            buffers = self._local.buffers = [new_buffer(CHUNK_ELEMENTS) for _ in self._plan.models]
        return buffers


class LazyTensor:
    """Looks to transformers' loader like a slice of a safetensors file: what it is can be asked before it is read."""

    def __init__(self, tensors: MergedTensors, parts: Sequence[MergedTensor], shape: tuple[int, ...]) -> None:
        self._tensors, self._parts, self._shape = tensors, parts, shape

    def get_shape(self) -> list[int]:
        return list(self._shape)

    def get_dtype(self) -> str:
        """The safetensors name."""
        return self._parts[0].info.dtype

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._shape)

    @property
    def dtype(self) -> torch.dtype:
        return TORCH_DTYPES[self.get_dtype()]

    def is_floating_point(self) -> bool:
        return True

    def __getitem__(self, index: Any) -> Tensor:
        """The tensor (`...`) or a part of it; all of it is computed either way, of the recipe's dtype, on the CPU."""
        result = torch.empty(self._shape, dtype=self.dtype)
        if result.numel():
            memory = memoryview(result.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy has no stub
            self._tensors.compute(self._parts, memory)
        return result[index]
