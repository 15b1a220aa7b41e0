"""What the checks look at: objects of the store as frames with one row per fact that must hold.

pandas is imported where a frame is made: loading the definitions must stay light.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bai_pipeline.errors import StoreError
from bai_pipeline.plan import Plan
from bai_pipeline.settings import WorldSettings
from bai_pipeline.store import RefKey

if TYPE_CHECKING:
    import pandas as pd

MAY_BE_NULL = frozenset({"accuracy", "kl_ref", "explained_variance"})
"""Columns of `steps` that a run may not know: no answer in the batch, no reference, returns that are all the same."""

_PROBLEM = re.compile(r"\b(?:sum|alt|max)(?: [a-l] [0-9])+(?= (?:[:;]|<asst>)|$)")


def objects(plan: Plan, asset: str, alpha: str | None) -> Iterator[tuple[RefKey, Path]]:
    """The objects that an asset is now, verified as they are opened.

    Raises:
        StoreError: one was never materialized, or is damaged.
    """
    for key in plan.keys(asset, alpha):
        ref = plan.store.read_ref(key)
        if ref is None:
            raise StoreError(f"{key} has not been materialized")
        yield key, plan.store.open(ref.object)


def merge_weights(plan: Plan, asset: str, alpha: str | None) -> "pd.DataFrame":
    """One row per merge: what it records and what follows from the weights themselves."""
    import pandas as pd

    ((_, path),) = objects(plan, asset, alpha)
    rows = json.loads((path / "merge_weights.json").read_text(encoding="utf-8"))
    return pd.DataFrame(
        {
            "merge": [row["merge"] for row in rows],
            "alpha": [row["alpha"] for row in rows],
            "alpha_plus_beta": [None if row["alpha"] is None else row["alpha"] + row["beta"] for row in rows],
            "weight_sum": [row["weight_sum"] for row in rows],
            "sum_of_weights": [math.fsum(row["weights"].values()) for row in rows],
            "sum_of_sft_weights": [math.fsum(row["sft_weights"].values()) for row in rows],
            "smallest_weight": [min([*row["weights"].values(), *row["sft_weights"].values()]) for row in rows],
        }
    ).astype({"alpha": float, "alpha_plus_beta": float})


def texts(plan: Plan, asset: str, alpha: str | None) -> "pd.DataFrame":
    """One row per row of a data table: its table and id, its shortest text, the held-out problems that it states."""
    import pandas as pd
    import pyarrow.parquet as pq

    ((_, path),) = objects(plan, asset, alpha)
    records = []
    for table in sorted([*path.rglob("*.parquet"), *path.glob("*/questions.jsonl")]):
        lines = table.read_text(encoding="utf-8").splitlines() if table.suffix == ".jsonl" else []
        rows = [json.loads(line) for line in lines] if lines else pq.read_table(table).to_pylist()
        for number, row in enumerate(rows):
            parts = list(_texts(row))
            records.append(
                {
                    "table": table.parent.name if lines else table.stem,
                    "id": str(row.get("id", number)),
                    "shortest_text": min(len(part.strip()) for part in parts),
                    "problems": sum(len(_PROBLEM.findall(part)) for part in parts),
                    "held_out_problems": sum(_held_out(part, plan.study.world) for part in parts),
                }
            )
    return pd.DataFrame(records, columns=["table", "id", "shortest_text", "problems", "held_out_problems"])


def steps(plan: Plan, asset: str, alpha: str | None) -> "pd.DataFrame":
    """The `steps` tables of an asset's runs, with the distance to the step before and a count of non-finite values.

    What `MAY_BE_NULL` allows to be unknown is not counted; an infinity always is.
    """
    import numpy as np
    import pandas as pd

    frames = [pd.read_parquet(path / "steps") for _, path in objects(plan, asset, alpha)]
    frame = pd.concat(frames, ignore_index=True)
    frame["step_increase"] = frame.groupby("seed")["step"].diff().fillna(frame["step"] + 1)
    numbers = frame.select_dtypes("number")
    unknown = numbers.isna() & numbers.columns.isin(MAY_BE_NULL)
    frame["non_finite"] = (~np.isfinite(numbers) & ~unknown).sum(axis=1)
    frame["length_ordered"] = frame["length_mean"].between(frame["length_min"], frame["length_max"])
    return frame


def scores(plan: Plan, asset: str, alpha: str | None) -> "pd.DataFrame":
    """One row per model and benchmark that was asked for, and whether there is either a score or a reason for none."""
    import pandas as pd

    frames = []
    asked = pd.DataFrame({"benchmark": list(plan.study.evals.benchmarks)})
    for key, path in objects(plan, asset, alpha):
        found = pd.read_parquet(path / "scores.parquet")
        frames.append(asked.merge(found, on="benchmark", how="outer").assign(model=str(key)))
    frame = pd.concat(frames, ignore_index=True)
    run = frame["score"].notna() & frame["reason"].isna() & (frame["n"] >= 1)
    hole = frame["score"].isna() & frame["reason"].notna() & (frame["n"] == 0)
    return frame.assign(explained=run | hole)


def _texts(row: dict[str, Any]) -> Iterator[str]:
    """Every text of a row, whatever its table."""
    for name in ("text", "chosen", "rejected"):
        if name in row:
            yield str(row[name])
    for name in ("messages", "prompt"):
        if isinstance(row.get(name), list):
            yield from (str(message["content"]) for message in row[name])


def _held_out(text: str, world: WorldSettings) -> int:
    """How many held-out problems of the embedded world a text states; text of other worlds states none."""
    from bai_pipeline.synthetic.tasks import is_held_out, parse_prompt

    problems = map(parse_prompt, _PROBLEM.findall(text))
    return sum(problem is not None and is_held_out(problem, world) for problem in problems)
