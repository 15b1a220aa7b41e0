"""The schemas of data tables, the same for the embedded world's and a user's own.

    prompts      {id, messages, answer?, verifier?}     messages end with a user turn
    sft          {messages}                             messages end with an assistant turn
    preferences  {prompt, chosen, rejected}             prompt is messages that end with a user turn

Files are Parquet or JSON Lines; messages are lists of {role, content}.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from bai_pipeline.errors import DataError

TableKind = Literal["prompts", "sft", "preferences"]
Row = dict[str, Any]

_ROLES = ("system", "user", "assistant")
_SHOWN = 10


def read_table(kind: TableKind, path: Path) -> list[Row]:
    """Read and validate a table.

    Raises:
        DataError: unreadable, empty, or rows that break the schema; names the file, the rows and the fields.
    """
    rows = _rows(path)
    if not rows:
        raise DataError(f"{path} holds no rows; a {kind} table needs at least one")
    faults = [f"row {index}: {fault}" for index, row in enumerate(rows) for fault in _FAULTS[kind](row)]
    if kind == "prompts":
        faults += _repeated_ids(rows)
    if faults:
        more = f"\n  … and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(f"{path} is not a {kind} table:\n  " + "\n  ".join(faults[:_SHOWN]) + more)
    return rows


def write_table(rows: list[Row], path: Path) -> None:
    """Write rows as Parquet with deterministic bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")


def import_table(kind: TableKind, source: Path, destination: Path) -> int:
    """Validate a user's table and write it as Parquet, only the schema's columns; returns the number of rows."""
    rows = read_table(kind, source)
    columns = _COLUMNS[kind]
    kept = []
    for index, row in enumerate(rows):
        clean: Row = {name: row.get(name) for name in columns}
        for name in ("messages", "prompt"):
            if name in clean:
                clean[name] = [{"role": m["role"], "content": m["content"]} for m in clean[name]]
        if kind == "preferences" and clean["id"] is None:
            clean["id"] = str(index)
        kept.append(clean)
    write_table(kept, destination)
    return len(kept)


def _rows(path: Path) -> list[Row]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.read_table(path).to_pylist())
        if path.suffix in (".jsonl", ".json"):
            lines = path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            raise DataError(f"{path}: expected a .parquet or .jsonl file, got {path.suffix or 'no suffix'}")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error}") from error
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {index} must be an object, got {type(row).__name__}")
    return rows


def _messages_faults(row: Row, column: str, last: str) -> Iterator[str]:
    messages = row.get(column)
    if not isinstance(messages, list) or not messages:
        yield f"{column} must be a non-empty list of {{role, content}}, got {_shown(messages)}"
        return
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            yield f"{column}[{index}].role must be one of {', '.join(_ROLES)}, got {_shown(message)}"
        elif not isinstance(message.get("content"), str) or not message["content"].strip():
            yield f"{column}[{index}].content must be non-empty text, got {_shown(message.get('content'))}"
    if isinstance(messages[-1], dict) and messages[-1].get("role") != last:
        yield f"{column} must end with a turn of the {last}, got {_shown(messages[-1].get('role'))}"


def _prompts_faults(row: Row) -> Iterator[str]:
    if not isinstance(row.get("id"), str) or not row["id"]:
        yield f"id must be non-empty text, got {_shown(row.get('id'))}"
    yield from _messages_faults(row, "messages", "user")
    for column in ("answer", "verifier"):
        if row.get(column) is not None and not isinstance(row[column], str):
            yield f"{column} must be text, got {_shown(row[column])}"
    if row.get("verifier") is not None and row.get("answer") is None:
        yield f"verifier {row['verifier']!r} needs an answer"


def _sft_faults(row: Row) -> Iterator[str]:
    yield from _messages_faults(row, "messages", "assistant")


def _preferences_faults(row: Row) -> Iterator[str]:
    if row.get("id") is not None and not isinstance(row["id"], str):
        yield f"id must be text, got {_shown(row['id'])}"
    yield from _messages_faults(row, "prompt", "user")
    for column in ("chosen", "rejected"):
        if not isinstance(row.get(column), str) or not row[column].strip():
            yield f"{column} must be non-empty text, got {_shown(row.get(column))}"
    if row.get("chosen") is not None and row.get("chosen") == row.get("rejected"):
        yield f"chosen and rejected are the same text {_shown(row['chosen'])}"


def _repeated_ids(rows: list[Row]) -> list[str]:
    seen: dict[str, int] = {}
    faults = []
    for index, row in enumerate(rows):
        first = seen.setdefault(str(row.get("id")), index)
        if first != index:
            faults.append(f"row {index}: id {row.get('id')!r} stands in row {first} already")
    return faults


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


_FAULTS = {"prompts": _prompts_faults, "sft": _sft_faults, "preferences": _preferences_faults}
_COLUMNS = {
    "prompts": ("id", "messages", "answer", "verifier"),
    "sft": ("messages",),
    "preferences": ("id", "prompt", "chosen", "rejected"),
}
