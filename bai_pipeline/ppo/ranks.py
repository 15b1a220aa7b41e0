"""The processes of one training run: one a GPU, or several on CPUs, started by torchrun or by a launcher like it.

A process that was started alone is a world of one. Collectives run over gloo on CPUs and over NCCL on GPUs.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from bai_pipeline.errors import TrainingError


class Ranks:
    """This process among the others."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls) -> "Ranks":
        """Meet the other processes, once; the environment says who they are (RANK, WORLD_SIZE, MASTER_ADDR, …).

        A world of one meets over a store in memory, which needs no port.
        """
        if not distributed.is_initialized():
            size = int(os.environ.get("WORLD_SIZE", "1"))
            on_gpu = torch.cuda.is_available()
            if on_gpu:
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            if size == 1:
                store = distributed.HashStore()  # type: ignore[attr-defined]
                distributed.init_process_group(backend, store=store, rank=0, world_size=1)
            else:
                distributed.init_process_group(backend)
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def own(self, count: int) -> list[int]:
        """The numbers of this rank's share of `count` things; all shares are equal."""
        return list(range(self.rank, count, self.size))

    def check_divides(self, name: str, count: int) -> None:
        """Require that ranks get equal shares.

        Raises:
            TrainingError: they do not.
        """
        if count % self.size:
            raise TrainingError(f"{name} is {count}, which {self.size} ranks cannot share equally; nothing was trained")

    def barrier(self) -> None:
        """Wait for all."""
        if self.size > 1:
            distributed.barrier()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is true of some rank."""
        return bool(self.sum(torch.tensor(int(flag))))

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sum of each number over the ranks, which all name the same ones."""
        names = sorted(numbers)
        total = self.sum(torch.tensor([numbers[name] for name in names], dtype=torch.float64))
        return dict(zip(names, total.tolist(), strict=True))

    def merged(self, own: Sequence[Any]) -> list[Any]:
        """Everybody's things in the order of `own`: thing k is the k // size-th of rank k mod size."""
        if self.size == 1:
            return list(own)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(own))
        return [parts[k % self.size][k // self.size] for k in range(sum(map(len, parts)))]

    def agree(self, value: Any) -> Any:
        """What the first rank says."""
        box = [value]
        if self.size > 1:
            distributed.broadcast_object_list(box)
        return box[0]
