"""Looking for NaN and infinity in the bytes of a tensor."""

from typing import Final

from bai_pipeline.checkpoints.checkpoint import CHUNK_ELEMENTS, Checkpoint, Reader
from bai_pipeline.errors import CheckpointError

_EXPONENTS: Final[dict[str, tuple[str, int]]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""The exponent bits of each dtype; IEEE 754 sets all of them in infinities and NaNs, and only there."""


def first_non_finite(data: memoryview, dtype: str) -> int | None:
    """The position of the first NaN or infinity among the elements of `data`; None when there is none.

    Args:
        dtype: the safetensors name; one without infinities (integers, bool) or of eight bits has no answer but None.
    """
    if dtype not in _EXPONENTS:
        return None
    import numpy as np  # not needed by a merge that the native kernel computes, which checks what it loads

    unsigned, exponent = _EXPONENTS[dtype]
    masked = np.frombuffer(data, dtype=unsigned) & np.array(exponent, dtype=unsigned)
    if masked.size == 0 or int(masked.max()) != exponent:
        return None
    return int(masked.argmax())


def check_finite(checkpoint: Checkpoint) -> None:
    """Read every tensor.

    Raises:
        CheckpointError: a value is NaN or infinite; the message names the tensor and the flat position of the first.
    """
    with Reader() as reader:
        for tensor in checkpoint.tensors.values():
            for number, chunk in enumerate(reader.chunks(tensor)):
                position = first_non_finite(chunk, tensor.dtype)
                if position is not None:
                    flat = number * CHUNK_ELEMENTS + position
                    raise CheckpointError(f"{tensor.file}: tensor {tensor.name}: not finite at flat position {flat}")
