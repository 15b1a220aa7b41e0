"""One tensor of a merge, chunk by chunk. What writes files and what loads models share it."""

from collections.abc import Callable

from bai_pipeline.errors import CheckpointError
from bai_pipeline.merging.arithmetic import Backend, Bound, Buffers, Fault, choose_arithmetic
from bai_pipeline.merging.hashing import NativeHash
from bai_pipeline.merging.inputs import Inputs
from bai_pipeline.merging.kernel import BoundKernel
from bai_pipeline.merging.outputs import Outputs
from bai_pipeline.merging.plan import MergedTensor, MergePlan, Run
from bai_pipeline.merging.program import copy_program


def merge_elements(
    plan: MergePlan,
    tensor: MergedTensor,
    inputs: Inputs,
    outputs: Outputs,
    backend: Backend,
    chunk_elements: int,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Compute all elements of a tensor for every recipe of the plan.

    A model that is hashed is read to its end, also where no output needs it.

    Args:
        done: called after each chunk with the number of its elements.

    Raises:
        CheckpointError: an input cannot be read or is not finite, a result is out of its dtype's range, or an output
            cannot be written.
    """
    merged: Bound | None = None
    positions = [0] * len(inputs.models)
    for run in tensor.runs:
        present = inputs.have(run.stop)
        if run.donor is not None:
            bound = _bind(plan, tensor, inputs, backend, present, run)
        else:
            bound = merged = merged or _bind(plan, tensor, inputs, backend, present, run)
        for start in range(run.start, run.stop, chunk_elements):
            count = min(chunk_elements, run.stop - start)
            fault = _compute(bound, inputs, outputs, present, start, count)
            if fault is not None:
                raise _error(plan, tensor, inputs, outputs, fault, start)
            done(count)
        positions = [run.stop if there else at for there, at in zip(present, positions, strict=True)]
    for number, (position, digest) in enumerate(zip(positions, inputs.hashes, strict=True)):
        if digest is not None:
            total = inputs.tensors[number].elements
            for start in range(position, total, chunk_elements):
                view = inputs.take(number, start, min(chunk_elements, total - start))
                inputs.check_finite(number, start, view)


def _compute(
    bound: Bound, inputs: Inputs, outputs: Outputs, present: tuple[bool, ...], start: int, count: int
) -> Fault | None:
    """One chunk, by the kernel in one call or step by step; the bytes are the same."""
    native = all(digest is None or isinstance(digest, NativeHash) for digest in (*inputs.hashes, *outputs.hashes))
    if isinstance(bound, BoundKernel) and native:
        return bound.stream(count, inputs.ends(start), outputs.ends(start), outputs.places(start, count))
    for number, there in enumerate(present):
        if there:
            inputs.take(number, start, count)
    fault = bound(start, count, outputs.places(start, count))
    if fault is None:
        outputs.keep(start, count)
    return fault


def _bind(
    plan: MergePlan, tensor: MergedTensor, inputs: Inputs, backend: Backend, present: tuple[bool, ...], run: Run
) -> Bound:
    name = tensor.info.name
    program = plan.program(name) if run.donor is None else copy_program(plan.models, run.donor, len(plan.recipes))
    dtypes = tuple(info.dtype for info in inputs.tensors)
    buffers = Buffers(inputs.buffers, dtypes, present, tensor.info.dtype)

    def refill(start: int, count: int) -> None:
        for number in range(len(inputs.models)):
            inputs.check_finite(number, start, inputs.fill(number, start, count))

    ranges = tensor.merged_ranges if run.donor is None else []
    return choose_arithmetic(backend, program).bind(program, buffers, name, ranges, refill)


def _error(
    plan: MergePlan, tensor: MergedTensor, inputs: Inputs, outputs: Outputs, fault: Fault, start: int
) -> Exception:
    if fault.side == "input file":
        return inputs.unreadable(fault.number, fault.position)
    if fault.side == "output file":
        return outputs.failed(fault.number, fault.position)
    if fault.side == "input":
        return inputs.not_finite(fault.number, start + fault.position)
    recipe = f" of {plan.recipes[fault.number].to_json()}" if len(plan.recipes) > 1 else ""
    return CheckpointError(
        f"tensor {tensor.info.name}: the merged value{recipe} at flat position {start + fault.position} is out of the "
        f"range of {tensor.info.dtype}, though its inputs are finite; no checkpoint was written"
    )
