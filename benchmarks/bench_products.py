"""Products of float32 matrices: native code against torch's, on one thread, at sizes of the small models.

In turns, medians of CPU seconds; what disturbs the machine disturbs both. Writes benchmarks/results/products-DATE as
JSON and Markdown, with the commit.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from bai_pipeline.native import Native, load_native
from benchmarks.bench_merge.__main__ import commit
from benchmarks.bench_merge.report import table

ROUNDS: Final = 15
OPERATIONS: Final = 4e9
"""In a measurement, about."""
RESULTS: Final = Path(__file__).parent / "results"

SIZES: Final = (
    ("a projection of a micro-batch", (2560, 128, 128)),
    ("an expert's gate and up", (640, 128, 256)),
    ("a gradient of a projection's weights", (128, 2560, 128)),
    ("a projection of 64 tokens", (64, 128, 384)),
    ("the router", (2560, 128, 8)),
    ("few rows (torch's)", (16, 2048, 2048)),
    ("rows from which it is native", (32, 2048, 2048)),
    ("a column (torch's)", (2560, 128, 1)),
    ("a large one", (2048, 2048, 2048)),
)
"""Rows, depth and columns."""
LAYOUTS: Final[dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "by rows": lambda a, b: (a, b),
    "right by columns": lambda a, b: (a, b.T.contiguous().T),
    "left by columns": lambda a, b: (a.T.contiguous().T, b),
}


def main() -> None:
    torch.set_num_threads(1)
    native = load_native()
    assert native is not None, "native code was not built"
    found = [
        {"size": title, "shape": shape, "layout": layout, **rates(native, *laid(torch.randn(m, k), torch.randn(k, n)))}
        for title, shape in SIZES
        for layout, laid in LAYOUTS.items()
        for m, k, n in [shape]
    ]
    now = datetime.now(UTC)
    record = {
        "date": now.isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": torch.cpu.get_capabilities()["cpu_name"],
        "torch": torch.__version__,
        "rounds": ROUNDS,
        "gflops": found,
    }
    name = RESULTS / f"products-{now.date()}"
    name.with_suffix(".json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    name.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


def rates(native: Native, a: Tensor, b: Tensor) -> dict[str, float]:
    """Operations per CPU nanosecond."""
    operations = 2 * a.shape[0] * a.shape[1] * b.shape[1]
    out, times = torch.empty(a.shape[0], b.shape[1]), max(1, round(OPERATIONS / operations / ROUNDS))
    contestants: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.mm(a, b, out=out),
        "native": lambda: native.product(a, b, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        for name, multiply in contestants.items():
            start = time.process_time()
            for _ in range(times):
                multiply()
            seconds[name].append((time.process_time() - start) / times)
    return {name: operations / median(one) / 1e9 for name, one in seconds.items()}


def markdown(record: dict[str, Any]) -> str:
    rows = [
        [
            one["size"],
            " x ".join(map(str, one["shape"])),
            one["layout"],
            f"{one['torch']:.0f}",
            f"{one['native']:.0f}",
            f"{one['native'] / one['torch']:.2f}",
        ]
        for one in record["gflops"]
    ]
    titles = ("product", "rows x depth x columns", "layout", "torch, GFLOPS", "native, GFLOPS", "times torch's")
    circumstances = (
        f"{record['date']}, commit {record['commit']}; {record['cpu']}, torch {record['torch']}; in turns, medians of "
        f"{record['rounds']} rounds of CPU seconds. torch multiplies with MKL."
    )
    lines = ["# Products of float32 matrices on one thread", "", circumstances, "", *table(titles, rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
