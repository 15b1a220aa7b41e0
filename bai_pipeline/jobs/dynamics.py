"""Jobs that read metrics tables: the diagnosis of runs, and which alpha to train."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bai_pipeline.dynamics_settings import DynamicsSettings
from bai_pipeline.jobs.context import JobContext, Outcome

if TYPE_CHECKING:
    import pandas as pd

VERDICT_COLUMNS = ("init", "seed", "detector", "verdict", "confidence", "reason", "evidence")


def diagnose_runs(job: JobContext) -> Outcome:
    """Every detector's verdict on every run of one or more initializations; inputs are named "INIT/SEED"."""
    import pandas as pd

    from bai_pipeline.dynamics.diagnosis import IN_ORDER, diagnose
    from bai_pipeline.dynamics.run_tables import RunTables
    from bai_pipeline.dynamics.verdicts import UNDETERMINED

    settings = DynamicsSettings.model_validate(job.spec.settings["dynamics"])
    frames, texts, values = [], [], {}
    for init, seed, path in runs_of(job.inputs):
        run = RunTables.of(*(pd.read_parquet(path / name) for name in ("steps", "responses", "prefixes")))
        diagnosis = diagnose(run, settings)
        frames.append(diagnosis.to_frame().assign(init=init, seed=seed))
        texts.append(f"## {init}, seed {seed}\n\n{diagnosis.to_markdown()}")
        values[f"{init}/{seed}"] = diagnosis.to_dict()
    verdicts = pd.concat(frames, ignore_index=True)[list(VERDICT_COLUMNS)]
    verdicts.to_parquet(job.out / "verdicts.parquet", index=False)
    (job.out / "verdicts.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    (job.out / "verdicts.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    found = verdicts[~verdicts["verdict"].isin({*IN_ORDER, UNDETERMINED})]
    words = [f"{row.init} seed {row.seed}: {row.detector} {row.verdict}" for row in found.itertuples()]
    job.reporter.check(
        "dynamics_are_stable", not words, severity="warn", findings="; ".join(words) or "none", runs=len(frames)
    )
    return Outcome({"runs": len(frames), "findings": len(words)})


def recommendation(job: JobContext) -> Outcome:
    """Which alpha for which goal; inputs are "runs/ALPHA/SEED", "scores/ALPHA/SEED" and "dynamics/ALPHA"."""
    import pandas as pd

    from bai_pipeline.dynamics.recommendation import recommend

    settings = job.spec.settings
    scores = [
        pd.read_parquet(path / "scores.parquet").assign(alpha=init.removeprefix("alpha "), seed=seed)
        for init, seed, path in runs_of(group_of(job.inputs, "scores"))
    ]
    advice = recommend(
        table_of_runs(group_of(job.inputs, "runs"), "steps"),
        verdicts_of(group_of(job.inputs, "dynamics")),
        pd.concat(scores, ignore_index=True) if scores else None,
        alphas=settings["alphas"],
        settings=DynamicsSettings.model_validate(settings["dynamics"]),
    )
    advice.goals.to_parquet(job.out / "goals.parquet", index=False)
    advice.next_alphas.to_parquet(job.out / "next_alphas.parquet", index=False)
    (job.out / "recommendation.md").write_text(advice.to_text() + "\n", encoding="utf-8")
    found = advice.goals.dropna(subset=["alpha"])
    named = {f"best for {row.goal}": str(row.alpha) for row in found.itertuples()}
    return Outcome({**named, "resolved": int(advice.goals["resolved"].sum())})


def group_of(inputs: Mapping[str, Path], group: str) -> dict[str, Path]:
    """The inputs whose names begin with GROUP/, without it."""
    return {name.removeprefix(f"{group}/"): path for name, path in inputs.items() if name.startswith(f"{group}/")}


def runs_of(inputs: Mapping[str, Path]) -> Iterator[tuple[str, int, Path]]:
    """(init, seed, directory) of inputs named "ALPHA/SEED" or "paradigm_N_run/SEED"."""
    for name, path in inputs.items():
        part, _, seed = name.rpartition("/")
        init = part.removesuffix("_run")
        yield init if init.startswith("paradigm") else f"alpha {init}", int(seed), path


def table_of_runs(inputs: Mapping[str, Path], table: str) -> "pd.DataFrame":
    """A metrics table of many runs, with a column `init`; none has the three columns that name a row."""
    import pandas as pd

    found = [pd.read_parquet(path / table).assign(init=init) for init, _, path in runs_of(inputs)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["init", "seed", "step"])


def verdicts_of(inputs: Mapping[str, Path]) -> "pd.DataFrame":
    """All verdicts of diagnosed runs."""
    import pandas as pd

    found = [pd.read_parquet(path / "verdicts.parquet") for path in inputs.values()]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(VERDICT_COLUMNS))
