"""Jobs that measure and show: benchmark scores, the two tables, the figures, the report."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.settings import EvalSettings

if TYPE_CHECKING:
    import pandas as pd

_NOT_RUN = "not materialized"
_NO_ROLE = "the study names no SFT model for it"


def evaluate(job: JobContext) -> Outcome:
    from bai_pipeline.evals import evaluate as evaluate_model

    settings = EvalSettings.model_validate(job.spec.settings)
    model, data = job.inputs["model"], job.inputs["data"]
    return Outcome(evaluate_model(model, data, job.out, settings, job.spec.seed or 0, job.reporter))


def ratio_table(job: JobContext) -> Outcome:
    """The paper's Table 2 on our benchmarks: one row per alpha; inputs are named "ALPHA/SEED"."""
    from bai_pipeline import evals, paper

    settings = job.spec.settings
    scores = _scores(job.inputs, {alpha: alpha for alpha in settings["alphas"]}, settings["seeds"])
    holes = dict.fromkeys(settings["alphas"], _NOT_RUN)
    table = evals.ratio_table(scores, settings["alphas"], holes, settings["benchmarks"], seeds=settings["seeds"])
    evals.write_table(table, job.out, "ratio_table", (evals.paper_ratio_table(), paper.TABLE_2))
    table.to_parquet(job.out / "ratio_table.parquet")
    return Outcome({"rows": len(table), "holes": int(table["average"].isna().sum())})


def paradigm_table(job: JobContext) -> Outcome:
    """The paper's Table 1 on our benchmarks: Paradigms 1 to 3 and BAI, after the models that they start from."""
    from bai_pipeline import evals, paper

    settings = job.spec.settings
    bai = f"BAI (alpha {settings['headline_alpha']})"
    labels = {"base_model": "Base", **{f"{role}_sft": f"{role} SFT" for role in settings["sft"]}}
    holes = dict.fromkeys(labels.values(), _NOT_RUN)
    if settings["paradigm_3"] is not None:
        labels[f"{settings['paradigm_3']}_sft"] = f"Paradigm 2 ({settings['paradigm_3']} SFT alone)"
    labels |= {"paradigm_1": "Paradigm 1", "paradigm_3": "Paradigm 3", settings["headline_alpha"]: bai}
    holes |= dict.fromkeys(labels.values(), _NOT_RUN)
    holes |= {f"Paradigm {n}": _NO_ROLE for n in (1, 3) if settings[f"paradigm_{n}"] is None}
    scores = _scores(job.inputs, labels, settings["seeds"])
    table = evals.paradigm_table(scores, list(labels.values()), holes, settings["benchmarks"], seeds=settings["seeds"])
    evals.write_table(table, job.out, "paradigm_table", (evals.paper_paradigm_table(), paper.TABLE_1))
    table.to_parquet(job.out / "paradigm_table.parquet")
    return Outcome({"rows": len(table), "holes": int(table["average"].isna().sum())})


def figures(job: JobContext) -> Outcome:
    from bai_pipeline.report import dynamics_figures

    return Outcome({"figures": len(dynamics_figures(_steps(job.inputs), job.out))})


def report(job: JobContext) -> Outcome:
    import pandas as pd

    from bai_pipeline.report import write_report

    tables = {name: pd.read_parquet(job.inputs[name] / f"{name}.parquet") for name in ("paradigm_table", "ratio_table")}
    write_report(
        job.out,
        study=job.spec.settings["study"],
        paradigms=tables["paradigm_table"],
        ratios=tables["ratio_table"],
        runs=_steps({name: path for name, path in job.inputs.items() if name not in tables}),
    )
    return Outcome({"runs": len(job.inputs) - len(tables)})


def _scores(inputs: Mapping[str, Path], labels: Mapping[str, str], seeds: list[int]) -> "pd.DataFrame":
    """All scores tables with their row and seed; a model that was not run by PPO has seed -1."""
    import pandas as pd

    from bai_pipeline.evals.tables import SCORE_COLUMNS

    def frames() -> Iterator[pd.DataFrame]:
        for name, label in labels.items():
            for seed in (None, *seeds):
                path = inputs.get(name if seed is None else f"{name}/{seed}")
                if path is not None:
                    frame = pd.read_parquet(path / "scores.parquet")
                    yield frame.assign(row=label, seed=-1 if seed is None else seed)

    found = list(frames())
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(SCORE_COLUMNS))


def _steps(inputs: Mapping[str, Path]) -> "pd.DataFrame":
    """The `steps` tables of runs named "INIT/SEED", with a column `init`."""
    import pandas as pd

    def frames() -> Iterator[pd.DataFrame]:
        for name, path in inputs.items():
            init = name.rsplit("/", 1)[0].removesuffix("_run")
            yield pd.read_parquet(path / "steps").assign(init=init if init.startswith("paradigm") else f"alpha {init}")

    found = list(frames())
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["init", "seed", "step"])
