"""What DeepSpeed holds of a model in training, under ZeRO 0 to 3, with and without offloading.

P parameters of the model, N ranks, e bytes of an element while training (2 or 4).

The states are those of the ZeRO paper (Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1 and figure 1; K = 12):

                    parameters   gradients   float32 master, Adam's moments
        stage 0     e P          e P         (4 + 8) P
        stage 1     e P          e P         (4 + 8) P / N
        stage 2     e P          e P / N     (4 + 8) P / N
        stage 3     e P / N      e P / N     (4 + 8) P / N

Beside them DeepSpeed 0.19.8 holds a float32 copy of the gradients, 4 P / N, while the optimizer steps. Its own
estimators (`estimate_zero2_model_states_mem_needs`, `estimate_zero3_…` in deepspeed/runtime/zero) count the same for
e = 2, stage 2: 2 P + 18 P / N. For stage 3 they give 18 P / N, which leaves the parameters' own 2 P / N out, and 4
bytes a parameter of the largest module. They do not count the buffers below.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from bai_pipeline.sizing.footprint import ELEMENT_BYTES, TRAINING, Dtype, Item, Phase

Stage = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class Zero:
    """How a model in training is spread over ranks; the defaults are DeepSpeed's (deepspeed/runtime/zero/config.py)."""

    stage: Stage = 1
    ranks: int = 1
    offload_optimizer: bool = False
    """Master weights, moments and float32 gradients lie on the host."""
    offload_parameters: bool = False
    """Stage 3: the parts of the parameters lie on the host too."""
    reduce_bucket_size: int = 500_000_000
    """Elements of the buffer that gradients are reduced in."""
    max_live_parameters: int = 1_000_000_000
    """Stage 3: elements that may be gathered at a time."""
    sub_group_size: int = 1_000_000_000
    """Stage 3: elements of a rank that the optimizer steps at a time."""

    @classmethod
    def of_config(cls, deepspeed: Mapping[str, Any], *, stage: Stage, ranks: int) -> Self:
        """What a DeepSpeed JSON says, for the keys that decide memory; "auto" is not a number and stays the default."""
        zero = deepspeed.get("zero_optimization") or {}
        keys = {
            "reduce_bucket_size": "reduce_bucket_size",
            "max_live_parameters": "stage3_max_live_parameters",
            "sub_group_size": "sub_group_size",
        }
        sizes = {name: int(zero[key]) for name, key in keys.items() if isinstance(zero.get(key), int | float)}
        optimizer, parameters = (
            (zero.get(key) or {}).get("device", "none") != "none" for key in ("offload_optimizer", "offload_param")
        )
        return cls(stage, ranks, optimizer, parameters, **sizes)

    def share(self, parameters: int, stage: Stage) -> int:
        """Elements on one rank of what is spread from `stage` on: ⌈P / N⌉, or P."""
        return -(-parameters // self.ranks) if self.stage >= stage else parameters

    def stepped(self, parameters: int) -> int:
        """Elements that the optimizer steps at a time on one rank."""
        share = self.share(parameters, 1)
        return min(share, self.sub_group_size) if self.stage == 3 else share

    @property
    def offloads_optimizer(self) -> bool:
        """Whether the host has the optimizer: from stage 1 on, where it is asked for."""
        return self.offload_optimizer and self.stage > 0


class Trained(StrEnum):
    """The models in training."""

    ACTOR = "actor"
    CRITIC = "critic"

    @property
    def backward(self) -> Phase:
        """While its gradients are computed, micro-batch by micro-batch."""
        return Phase(f"{self.value} backward")

    @property
    def step(self) -> Phase:
        """While its optimizer steps."""
        return Phase(f"{self.value} step")


def training_states(name: Trained, parameters: int, dtype: Dtype, zero: Zero) -> Iterator[Item]:
    """Parameters, gradients, master weights, moments and the step's float32 gradients of one rank (see the module).

    Offloading (ZeRO-Offload, Ren et al. 2021, arXiv:2101.06840) moves master, moments and gradients to the host: 16
    bytes a parameter, as DeepSpeed's estimators say, and with the parameters themselves 18. Stage 3 keeps e more of
    gradients there (`grad_partitions_flat_buffer`), stages 1 and 2 e of parameters on their way back
    (`param_buffer_of_bit16_for_cpu_offload_groups`).

    In float32 too, DeepSpeed keeps a master copy from stage 1 on.
    """
    element, backward, step = ELEMENT_BYTES[dtype], name.backward, name.step
    share, offloaded, split = zero.share(parameters, 1), zero.offloads_optimizer, zero.stage == 3
    yield Item(f"{name}: parameters", element * zero.share(parameters, 3), on_host=zero.offload_parameters and split)
    if split or not offloaded:
        yield Item(
            f"{name}: gradients",
            element * zero.share(parameters, 2),
            TRAINING if split else frozenset({backward} if zero.stage else {backward, step}),
            on_host=offloaded,
        )
    else:
        yield Item(f"{name}: parameters on their way back", element * share, on_host=True)
    master = zero.stage > 0 or element == 2
    yield Item(f"{name}: master weights", 4 * share if master else 0, on_host=offloaded)
    yield Item(f"{name}: Adam's moments", 8 * share, on_host=offloaded)
    if offloaded:
        yield Item(f"{name}: float32 gradients", 4 * share, on_host=True)
    elif master:
        yield Item(f"{name}: float32 gradients", 4 * zero.stepped(parameters), frozenset({step}))


def training_buffers(
    name: Trained, parameters: int, largest_module: int, dtype: Dtype, zero: Zero, *, on_cpu: bool
) -> Iterator[Item]:
    """What DeepSpeed and AdamW need beside the states, on one rank.

        reduction    e · reduce_bucket_size for the gradients that are reduced together, and as much for the contiguous
                     copy that goes over the network; stage 3 keeps the first all the time, and gets 1 / N of it back
        gathered     stage 3: e · min(P, max(max_live_parameters, largest module)): parameters that will be used again
                     soon are not released
        whole grads  e · largest module: a weight's gradient is whole before it is reduced
        AdamW        4 bytes a parameter of the sub group for √v on GPUs (`torch._foreach_sqrt` in torch/optim/adam.py),
                     8 on CPUs (√v, and its quotient); none in DeepSpeedCPUAdam, which offloading from a GPU uses

    Sources: deepspeed/runtime/zero/stage3.py and stage_1_and_2.py (`ipg_buckets`, `allreduce_bucket`), config.py,
    partitioned_param_coordinator.py (`__params_to_release`), comm/coalesced_collectives.py. On CPUs memory counts once
    it is written to: of a bucket that is larger than the model, the model's part.
    """
    element, backward, step = ELEMENT_BYTES[dtype], name.backward, name.step
    together = min(zero.reduce_bucket_size, parameters) if on_cpu or not zero.stage else zero.reduce_bucket_size
    reducing = frozenset({backward})
    if zero.stage:
        yield Item(f"{name}: reduction bucket", element * together, TRAINING if zero.stage == 3 else reducing)
    if zero.ranks > 1 or zero.stage in (0, 3):
        yield Item(f"{name}: reduction, contiguous", element * together, reducing)
    if zero.stage == 3:
        yield Item(f"{name}: reduction, contiguous", element * -(-together // zero.ranks), reducing)
        gathered = min(parameters, max(zero.max_live_parameters, largest_module)) if zero.ranks > 1 else 0
        yield Item(f"{name}: gathered parameters", element * gathered, reducing)
        yield Item(f"{name}: gathered parameters", element * min(gathered, largest_module), frozenset({Phase.ESTIMATE}))
    yield Item(f"{name}: whole gradients", element * largest_module, reducing)
    if on_cpu or not zero.offloads_optimizer:
        stepped = zero.stepped(parameters) if zero.stage else largest_module
        yield Item(f"{name}: AdamW's temporaries", (8 if on_cpu else 4) * stepped, frozenset({step}))
