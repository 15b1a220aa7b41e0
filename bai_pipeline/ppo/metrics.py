"""The metrics tables of a run: `steps`, `responses`, `prefixes`, `samples` and `timings`, as Parquet parts.

    metrics/<table>/part-000020.parquet     the rows of the steps from 20 on, up to the next part

A part is written at each checkpoint, before it; resuming from a checkpoint drops the parts that start later. `collect`
joins the parts of every table but `timings` into one file each, whose bytes depend on the rows only: not on
interruptions, not on how often checkpoints were made. `timings` stay with the run, outside every equality.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bai_pipeline.errors import TrainingError

Row = Mapping[str, float | int | str | bool | None]

PUBLISHED = ("steps", "responses", "prefixes", "samples")
_ROW_GROUP = 1 << 20


def steps_schema(*, accuracy: bool, reference: bool, routed: bool) -> pa.Schema:
    """One row per step: means over the rollout batch, or over the response tokens of all mini-batch visits.

    Args:
        accuracy: the run can verify responses.
        reference: the run has a reference policy.
        routed: the policy is a mixture of experts.
    """
    integers = ("seed", "step", "length_min", "length_max")
    names = ["seed", "step", "length_mean", "length_min", "length_max", "truncated_share"]
    names += ["score_mean", "score_std", "reward_mean"]
    names += ["accuracy"] if accuracy else []
    names += ["kl_train_sample", "kl_mismatch"]
    names += ["kl_ref"] if reference else []
    names += ["kl_coef", "entropy", "clip_fraction", "policy_loss", "value_loss", "explained_variance", "stop_gap"]
    names += ["grad_norm_actor", "grad_norm_critic", "lr_actor", "lr_critic", "aux_loss"]
    names += ["expert_load_max", "expert_load_entropy"] if routed else []
    return pa.schema([(name, pa.int64() if name in integers else pa.float64()) for name in names])


def responses_schema(*, accuracy: bool) -> pa.Schema:
    """One row per response."""
    columns = [("seed", pa.int64()), ("step", pa.int64()), ("prompt_id", pa.string()), ("length", pa.int64())]
    columns += [("score", pa.float64())]
    columns += [("correct", pa.bool_())] if accuracy else []
    return pa.schema([*columns, ("finish_reason", pa.string())])


def prefixes_schema() -> pa.Schema:
    """One row per step and bucket of prefix lengths: mean of V − R over the tokens that follow such prefixes.

    R is the sum of the rewards to come: returns of a lambda below 1 contain V, and would hide its error. A critic that
    is wrong about long prefixes only is what shortens responses in the first steps.
    """
    integers = [(name, pa.int64()) for name in ("seed", "step", "prefix", "tokens")]
    return pa.schema([*integers, ("value_error", pa.float64())])


def samples_schema() -> pa.Schema:
    """Greedy responses to the same few prompts, every `sample_every` steps, before the step's updates."""
    columns = [("seed", pa.int64()), ("step", pa.int64()), ("prompt_id", pa.string()), ("length", pa.int64())]
    return pa.schema([*columns, ("finish_reason", pa.string()), ("response", pa.string())])


def timings_schema() -> pa.Schema:
    """One row per step: seconds of wall time in each phase on the first rank; CPU seconds and peaks of memory, summed
    over the ranks; tokens sampled."""
    phases = ("sync_seconds", "sample_seconds", "score_seconds", "estimate_seconds", "update_seconds")
    integers = [(name, pa.int64()) for name in ("seed", "step", "tokens")]
    used = ("cpu_seconds", "peak_rss_bytes", "peak_gpu_bytes")
    return pa.schema([*integers, *((name, pa.float64()) for name in (*phases, *used))])


class MetricsTables:
    """The tables of one run; rows wait in memory for the next checkpoint."""

    def __init__(self, root: Path, *, accuracy: bool, reference: bool, routed: bool) -> None:
        self._root = root
        self._schemas = {
            "steps": steps_schema(accuracy=accuracy, reference=reference, routed=routed),
            "responses": responses_schema(accuracy=accuracy),
            "prefixes": prefixes_schema(),
            "samples": samples_schema(),
            "timings": timings_schema(),
        }
        self._waiting: dict[str, list[Row]] = {name: [] for name in self._schemas}
        self._start = 0

    def resume(self, step: int) -> None:
        """Drop the parts that start at `step` or later.

        Raises:
            TrainingError: the parts before do not hold every step once.
        """
        self._start = step
        for table in self._schemas:
            directory = self._root / table
            directory.mkdir(parents=True, exist_ok=True)
            for path in sorted(directory.iterdir()):
                if path.name.startswith(".") or _first_step(path) >= step:
                    path.unlink()
        held = self._read("steps")["step"].to_pylist()
        if held != list(range(step)):
            raise TrainingError(
                f"{self._root / 'steps'} should hold the steps 0 to {step - 1}, once each, to resume from step {step}; "
                f"it holds {len(held)} rows; remove the run's work directory to start it anew"
            )

    def add(self, table: str, row: Row) -> None:
        """A new row of `table`, with exactly the columns of its schema."""
        names = self._schemas[table].names
        if set(row) != set(names):
            raise TrainingError(f"a row of {table} has columns {sorted(row)}, expected {sorted(names)}")
        self._waiting[table].append(row)

    def flush(self, next_step: int) -> None:
        """Write the waiting rows as a part; the next part starts at `next_step`."""
        for table, rows in self._waiting.items():
            if rows:
                part = pa.Table.from_pylist(rows, schema=self._schemas[table])
                _write(part, self._root / table / f"part-{self._start:06d}.parquet")
                rows.clear()
        self._start = next_step

    def collect(self, out: Path) -> None:
        """Write the published tables, whole, to `out`/<table>/part-000000.parquet."""
        for table in PUBLISHED:
            (out / table).mkdir()
            _write(self._read(table), out / table / "part-000000.parquet")

    def rows(self, table: str) -> list[Row]:
        """All flushed rows of a table."""
        rows: list[Row] = self._read(table).to_pylist()
        return rows

    def _read(self, table: str) -> pa.Table:
        schema = self._schemas[table]
        parts = [pq.read_table(path, schema=schema) for path in sorted((self._root / table).glob("part-*.parquet"))]
        return pa.concat_tables([schema.empty_table(), *parts]).combine_chunks()


def _first_step(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
