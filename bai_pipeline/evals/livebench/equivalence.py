"""Whether two LaTeX formulae are equal, in a process of its own: to simplify a formula can take any time and memory.

This file is also the program of that process, and so imports nothing of the package.
"""

import json
import resource
import subprocess
import sys
from typing import Final

TIME_LIMIT: Final = 20.0
"""Seconds for one pair, of which about one starts the process."""
MEMORY_LIMIT: Final = 4 << 30
"""Bytes of address space of the process."""
TOLERANCE: Final = 0.001
"""Difference at which two numbers are still equal."""


def is_equivalent(first: str, second: str, time_limit: float = TIME_LIMIT) -> bool | None:
    """Whether the difference of two formulae simplifies to zero, or to a number of a size less than 0.001.

    Args:
        first, second: LaTeX.
        time_limit: in seconds.

    Returns:
        None: one of them cannot be read, or the time or the memory did not suffice.
    """
    if first == second:
        return True
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=json.dumps([first, second]),
            capture_output=True,
            text=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return {"equal": True, "different": False}.get(done.stdout.strip())


def _compare(first: str, second: str) -> bool:
    from latex2sympy2_extended import latex2sympy  # type: ignore[import-untyped]
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig  # type: ignore[import-untyped]

    product = ConversionConfig(interpret_as_mixed_fractions=False)
    left, right = (latex2sympy(formula, conversion_config=product) for formula in (first, second))
    difference = (left - right).simplify()
    return bool(difference == 0) or bool(difference.is_number and abs(difference) < TOLERANCE)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    sys.stdout.write("equal" if _compare(*json.load(sys.stdin)) else "different")
