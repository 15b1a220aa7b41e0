"""Successive halving over runs that exist: what was decided after each rung, what it cost, the advice.

Decisions are a function of the runs alone, each read up to its rung, so the job that trains and this record agree.
"""

from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bai_pipeline.dynamics_settings import DynamicsSettings, HalvingSettings
from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.jobs.dynamics import runs_of
from bai_pipeline.plan.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from bai_pipeline.dynamics.ladder import Rung


def decisions(
    runs: Mapping[str, Path],
    ladder: "tuple[Rung, ...]",
    halving: HalvingSettings,
    dynamics: DynamicsSettings,
) -> "list[pd.DataFrame]":
    """What is decided after each rung of `ladder` but the last: see `dynamics.halving.decide`.

    Args:
        runs: directories of runs by "ALPHA/SEED".

    Raises:
        DataError: a run is absent or shorter than its rung, and was not stopped for a collapse.
    """
    from bai_pipeline.dynamics.halving import decide

    found: list[pd.DataFrame] = []
    alphas = sorted({name.split("/")[0] for name in runs}, key=float)
    for rung in ladder[:-1]:
        steps, verdicts = up_to(rung.until_step, _of(runs, alphas), dynamics)
        decision = decide(rung, steps, verdicts, halving, alphas=alphas)
        found.append(decision.assign(until_step=rung.until_step))
        alphas = continuing(decision)
    return found


def continuing(decision: "pd.DataFrame") -> list[str]:
    """The alphas that go on after a rung."""
    return [str(row.alpha) for row in decision.itertuples() if row.decision == "continue"]


def up_to(step: int, runs: Mapping[str, Path], dynamics: DynamicsSettings) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """The first `step` steps of runs, and what the detectors say of these: `steps` tables and verdicts."""
    import pandas as pd

    from bai_pipeline.dynamics.diagnosis import diagnose
    from bai_pipeline.dynamics.run_tables import RunTables

    steps, verdicts = [], []
    for init, seed, path in runs_of(runs):
        tables = RunTables.of(*(pd.read_parquet(path / name) for name in ("steps", "responses", "prefixes")))
        tables = tables.until(step - 1)
        steps.append(tables.steps.assign(init=init, seed=seed))
        verdicts.append(diagnose(tables, dynamics).to_frame().assign(init=init, seed=seed))
    return pd.concat(steps, ignore_index=True), pd.concat(verdicts, ignore_index=True)


def halving(job: JobContext) -> Outcome:
    """The record of successive halving; inputs are runs by "ALPHA/SEED"."""
    import pandas as pd

    from bai_pipeline.dynamics.halving import compare
    from bai_pipeline.dynamics.ladder import Rung, cost, rungs
    from bai_pipeline.dynamics.recommendation import recommend
    from bai_pipeline.evals.writing import plain_markdown

    settings, runs = job.spec.settings, job.inputs
    alphas, seeds, last = settings["alphas"], settings["seeds"], settings["until_step"]
    rules = HalvingSettings.model_validate(settings["halving"])
    dynamics = DynamicsSettings.model_validate(settings["dynamics"])
    ladder = rungs(alphas, last, rules)
    decided = decisions(runs, ladder, rules, dynamics)
    trained, done = list(alphas), []
    ends: dict[str, int] = {}  # of each alpha, the last rung it was trained to
    for rung, frame in zip(ladder, [*decided, None], strict=True):
        done.append(Rung(rung.until_step, len(trained), rung.survivors))
        ends |= dict.fromkeys(trained, rung.until_step)
        trained = [] if frame is None else continuing(frame)
    parts = [up_to(end, _of(runs, [alpha]), dynamics) for alpha, end in ends.items()]
    steps, verdicts = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    advice = recommend(steps, verdicts, alphas=alphas, settings=dynamics)
    spent = cost(done, alphas, seeds, last)
    log = pd.concat(decided, ignore_index=True)
    log.to_parquet(job.out / "decisions.parquet", index=False)
    advice.goals.to_parquet(job.out / "goals.parquet", index=False)
    text = [
        f"Successive halving spent {spent.spent} of the full grid's {spent.full_grid} PPO steps ({spent.share:.0%}).",
        *(_told(frame, rules.goal) for frame in decided),
        advice.to_text(),
    ]
    if all(_is_complete(path, last) for path in runs.values()):
        full = recommend(*up_to(last, runs, dynamics), alphas=alphas, settings=dynamics)
        beside = compare(advice, full)
        beside.to_csv(job.out / "beside_the_full_grid.csv", index=False)
        text += [_BESIDE, plain_markdown(_readable(beside))]
    (job.out / "halving.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return Outcome({"steps_spent": spent.spent, "steps_of_the_full_grid": spent.full_grid, "share": spent.share})


def _of(runs: Mapping[str, Path], alphas: list[str]) -> dict[str, Path]:
    return {name: path for name, path in runs.items() if name.split("/")[0] in alphas}


def _told(decision: "pd.DataFrame", goal: str) -> str:
    """What was decided after a rung, as a list."""
    step, left = decision["until_step"].iloc[0], len(continuing(decision))
    lines = [f"After step {step}, {left} of {len(decision)} go on (means over runs, 95% bands in brackets):", ""]
    for row in decision.to_dict("records"):
        verb = "goes on" if row["decision"] == "continue" else "is dropped"
        number = _banded(row["value"], row["low"], row["high"])
        lines.append(f"- **alpha {row['alpha']}** {verb}: {goal} {number}. {row['reason']}")
    return "\n".join(lines)


_BESIDE = (
    "The full grid was trained as well. The advice of both, bands in brackets (tied: the full grid does not tell "
    "halving's choice from its own best):"
)


def _readable(beside: "pd.DataFrame") -> "pd.DataFrame":
    """`dynamics.halving.compare` with an alpha and its number in one cell."""
    import pandas as pd

    def cell(row: Mapping[Any, Any], side: str) -> str:
        if not isinstance(row[side], str):
            return "–"
        return f"alpha {row[side]}: " + _banded(*(row[f"{side}_{name}"] for name in ("value", "low", "high")))

    rows = [
        {
            "goal": row["goal"],
            "unit": row["unit"],
            "successive halving": cell(row, "halving"),
            "full grid": cell(row, "full"),
            "agreement": row["agreement"],
        }
        for row in beside.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _banded(value: float, low: float, high: float) -> str:
    return f"{value:.3g}" if isnan(low) else f"{value:.3g} ({low:.3g} to {high:.3g})"


def _is_complete(run: Path, last: int) -> bool:
    """Whether a run came to its last step, or was stopped for a collapse: it gets no further."""
    record = RunRecord.read(run)
    return record.stopped is not None or record.until_step >= last
