"""Great Expectations, as far as the checks use it: expectations on a frame in, an asset check's result out.

Importing Great Expectations takes seconds, so it is imported where a check runs, never when definitions are loaded.
"""

import os
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pandas as pd

Expected = tuple[str, dict[str, Any]]
"""Name of an expectation class and its arguments."""


def rows_at_least(count: int) -> Expected:
    return "ExpectTableRowCountToBeBetween", {"min_value": count}


def unique(*columns: str) -> Expected:
    if len(columns) == 1:
        return "ExpectColumnValuesToBeUnique", {"column": columns[0]}
    return "ExpectCompoundColumnsToBeUnique", {"column_list": list(columns)}


def not_null(column: str) -> Expected:
    return "ExpectColumnValuesToNotBeNull", {"column": column}


def between(column: str, low: float | None, high: float | None) -> Expected:
    """Every value that is not null lies in [low, high]; None is no bound."""
    return "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high}


def always(column: str, value: object) -> Expected:
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [value]}


def load() -> None:
    """Import Great Expectations, which takes seconds, before it is needed."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read at import; it would call a server
    import great_expectations.expectations  # noqa: F401


def expect(frame: "pd.DataFrame", expected: list[Expected]) -> dg.AssetCheckResult:
    """Validate a frame; the result's metadata is a table with a row per expectation."""
    load()
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    suite = gx.ExpectationSuite("check", expectations=[getattr(gxe, name)(**arguments) for name, arguments in expected])
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    definition = context.data_sources.add_pandas("frame").add_dataframe_asset("frame")
    batch = definition.add_batch_definition_whole_dataframe("frame").get_batch({"dataframe": frame})
    outcome = batch.validate(suite)
    records = [_record(result) for result in outcome.results]
    return dg.AssetCheckResult(
        passed=bool(outcome.success),
        metadata={"expectations": dg.MetadataValue.table(records), "rows": len(frame)},
    )


def _record(result: Any) -> dg.TableRecord:
    """One expectation as a row of text and numbers (the results hold numpy values, which do not serialize)."""
    configuration, found = result.expectation_config, result.result
    arguments = {key: value for key, value in configuration.kwargs.items() if key != "batch_id"}
    columns = arguments.pop("column", None) or arguments.pop("column_list", "")
    observed = found.get("partial_unexpected_list") or found.get("observed_value", "")
    if result.exception_info.get("raised_exception"):
        observed = result.exception_info.get("exception_message")
    return dg.TableRecord(
        {
            "expectation": configuration.type,
            "column": str(columns),
            "arguments": ", ".join(f"{key}={value}" for key, value in arguments.items()),
            "passed": bool(result.success),
            "unexpected": int(found.get("unexpected_count") or 0),
            "observed": str(observed)[:200],
        }
    )
