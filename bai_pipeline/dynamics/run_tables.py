"""The tables of one run, as detectors read them."""

from dataclasses import dataclass
from typing import Self

import pandas as pd

from bai_pipeline.errors import DataError


@dataclass(frozen=True)
class RunTables:
    """One run: one initialization and one seed.

    Columns are those of `bai_pipeline.ppo.metrics`; beside `step` and `length_mean` any may be absent, as in another
    trainer's log, and any value may be NaN.
    """

    steps: pd.DataFrame
    """One row per step, in order."""
    responses: pd.DataFrame | None = None
    """One row per response: step, length, score and, where known, correct, finish_reason."""
    prefixes: pd.DataFrame | None = None
    """One row per step and bucket of prefix lengths: step, prefix (first length of the bucket, tokens), tokens,
    value_error (mean of V − R)."""

    @classmethod
    def of(
        cls, steps: pd.DataFrame, responses: pd.DataFrame | None = None, prefixes: pd.DataFrame | None = None
    ) -> Self:
        """Tables in order of step.

        Raises:
            DataError: no `step` or `length_mean`, no row, or a step that is there twice (several seeds in one table).
        """
        absent = [name for name in ("step", "length_mean") if name not in steps.columns]
        if absent:
            raise DataError(f"expected the columns step and length_mean, got {', '.join(map(str, steps.columns))}")
        if steps.empty:
            raise DataError("the table of steps has no rows")
        twice = steps.loc[steps["step"].duplicated(), "step"]
        if not twice.empty:
            raise DataError(
                f"expected one row per step, got several for step {twice.iloc[0]}: is it more than one run?"
            )
        return cls(*(_ordered(table) for table in (steps, responses, prefixes)))  # type: ignore[arg-type]

    def has(self, *columns: str) -> bool:
        """Whether `steps` has numbers in all these columns."""
        return all(name in self.steps.columns and bool(self.steps[name].notna().any()) for name in columns)

    def until(self, step: int) -> "RunTables":
        """What was known after `step` (inclusive)."""
        tables = (self.steps, self.responses, self.prefixes)
        return RunTables(*(None if table is None else table[table["step"] <= step] for table in tables))  # type: ignore[arg-type]


def _ordered(table: pd.DataFrame | None) -> pd.DataFrame | None:
    return None if table is None else table.sort_values("step", kind="stable").reset_index(drop=True)
