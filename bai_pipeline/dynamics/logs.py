"""Runs read from what trainers leave: our own tables, and other trainers' logs.

    a run's published directory       steps/, responses/, prefixes/ (Parquet parts)
    a run's work directory            metrics/steps/, …
    Parquet, CSV, TSV, JSON Lines     one table of steps; JSON: also a list, or trainer_state.json (its log_history)

Exports of Weights & Biases are CSV: a run's history (names with or without "train/"), or a panel's, where each column
is "RUN - NAME". A column `seed`, `init` or `run` with several values is several runs. The names are in `log_formats`.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bai_pipeline.dynamics.log_formats import BAI, FORMATS, LogFormat, format_of
from bai_pipeline.dynamics.run_tables import RunTables
from bai_pipeline.errors import DataError

_RUN_COLUMNS = ("init", "run", "seed")
_SHOWN = 20


def read_runs(path: Path, log_format: str | None = None) -> dict[str, RunTables]:
    """The runs of a file or directory, by label.

    Args:
        log_format: a name of `FORMATS`; by default it is told from the columns.

    Raises:
        DataError: not readable, or without a step and a length; names the file, the columns expected and found.
    """
    if log_format is not None and log_format not in FORMATS:
        raise DataError(f"expected a format of {', '.join(FORMATS)}, got {log_format!r}")
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    metrics = _metrics_directory(path)
    if metrics is not None:
        steps = _columns_of(path, _read(metrics / "steps"), BAI)
        responses, prefixes = (
            _read(metrics / name) if (metrics / name).is_dir() else None for name in ("responses", "prefixes")
        )
        return dict(_by_run(path.parent.name if path.name == "steps" else path.name, path, steps, responses, prefixes))
    if path.is_dir():
        path = path / "trainer_state.json"
        if not path.is_file():
            raise DataError(
                f"{path.parent}: expected a directory with steps/, metrics/steps/ or trainer_state.json in it"
            )
    runs: dict[str, RunTables] = {}
    for label, table in _by_panel(path.stem if path.name != "trainer_state.json" else path.parent.name, _read(path)):
        chosen = FORMATS[log_format] if log_format else format_of(table.columns)
        runs |= _by_run(label, path, _columns_of(path, table, chosen), None, None)
    return runs


def _metrics_directory(path: Path) -> Path | None:
    for directory in (path.parent if path.name == "steps" else path, path / "metrics", path / "work" / "metrics"):
        if (directory / "steps").is_dir():
            return directory
    return None


def _read(path: Path) -> pd.DataFrame:
    """A table, with "train/" taken off its names."""
    try:
        if path.is_dir() or path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix in (".csv", ".tsv"):
            table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
        elif path.suffix in (".json", ".jsonl"):
            table = pd.DataFrame(_records(path, path.read_text(encoding="utf-8")))
        else:
            raise DataError(f"{path}: expected .parquet, .csv, .tsv, .jsonl or .json, got {path.suffix or 'no suffix'}")
    except (OSError, ValueError) as error:  # pyarrow's and pandas' own errors are ValueErrors
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error}") from error
    short = {name: str(name).strip().removeprefix("train/") for name in table.columns}
    table = table.rename(columns=short)
    return table.loc[:, ~table.columns.duplicated()]


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    """Rows of a JSON file: a list, trainer_state.json, or an object on each line ({step, data: {…}} is unfolded)."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(whole, dict):
        whole = whole.get("log_history", [whole])
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise DataError(f"{path}: expected objects, one a line or in a list, or an object with log_history")
    return [{"step": row.get("step"), **row["data"]} if isinstance(row.get("data"), dict) else row for row in whole]


def _by_panel(label: str, table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of a panel's export, whose columns are "RUN - NAME"; any other table is one."""
    columns = [name for name in table.columns if " - " in name and not name.endswith(("__MIN", "__MAX"))]
    named = {name: name.rsplit(" - ", 1) for name in columns}
    if not named:
        yield label, table
        return
    others = [name for name in table.columns if " - " not in name]
    for run in dict.fromkeys(run for run, _ in named.values()):
        own = {name: metric.removeprefix("train/") for name, (label_, metric) in named.items() if label_ == run}
        yield run, table[[*others, *own]].rename(columns=own)


def _columns_of(path: Path, table: pd.DataFrame, log_format: LogFormat) -> pd.DataFrame:
    """The table with our names, and rows that have a length or a score."""
    names = [str(name) for name in table.columns]
    runs = [name for name in _RUN_COLUMNS if name in names]
    if log_format is not BAI:
        found = log_format.found(table.columns)
        table = table[[*runs, *found.values()]].rename(columns={theirs: ours for ours, theirs in found.items()})
    measured = [name for name in ("length_mean", "score_mean") if name in table.columns]
    wanted = "length_mean" if log_format.name != "trl-ppo" else "score_mean"
    if "step" not in table.columns or wanted not in measured:
        raise DataError(_absent(path, log_format, "step" if "step" not in table.columns else wanted, names))
    numbers = [name for name in table.columns if name not in runs]
    try:
        table = table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: expected numbers in {', '.join(numbers)}: {error}") from error
    if "length_mean" not in table.columns:
        table = table.assign(length_mean=float("nan"))
    table = table.dropna(subset=measured, how="all").dropna(subset=["step"])
    if table.empty:
        raise DataError(f"{path}: no row has a step and one of {', '.join(measured)}")
    return table


def _absent(path: Path, log_format: LogFormat, column: str, names: Sequence[str]) -> str:
    wanted = log_format.columns.get(column, (column,))
    found = [*names[:_SHOWN], *([f"{len(names) - _SHOWN} more"] if len(names) > _SHOWN else [])]
    return f"{path} (format {log_format.name}): expected a column {' or '.join(wanted)}, got {', '.join(found)}"


def _by_run(
    label: str, path: Path, steps: pd.DataFrame, responses: pd.DataFrame | None, prefixes: pd.DataFrame | None
) -> Iterator[tuple[str, RunTables]]:
    """A run for each value of the columns that tell runs apart."""
    keys = [name for name in _RUN_COLUMNS if name in steps.columns and steps[name].nunique(dropna=False) > 1]
    groups = steps.groupby(keys, sort=True, dropna=False) if keys else [((), steps)]
    for values, rows in groups:
        own = dict(zip(keys, values, strict=True))
        others = (_rows_of(table, own) for table in (responses, prefixes))
        name = ", ".join([label, *(f"{key} {value}" for key, value in own.items())])
        try:
            yield name, RunTables.of(rows, *others)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _rows_of(table: pd.DataFrame | None, own: dict[str, Any]) -> pd.DataFrame | None:
    if table is None or table.empty:
        return None
    for key, value in own.items():
        if key in table.columns:
            table = table[table[key] == value]
    return table
