"""Jobs that show: the figures of the dynamics and the page of a study."""

from typing import TYPE_CHECKING

from bai_pipeline.jobs.context import JobContext, Outcome
from bai_pipeline.jobs.dynamics import group_of, runs_of, table_of_runs, verdicts_of

if TYPE_CHECKING:
    import pandas as pd

_PHASES = ("sync", "sample", "score", "estimate", "update")


def figures(job: JobContext) -> Outcome:
    from bai_pipeline.report import dynamics_figures

    settings, inputs = job.spec.settings, job.inputs
    written = dynamics_figures(
        table_of_runs(inputs, "steps"),
        table_of_runs(inputs, "responses"),
        table_of_runs(inputs, "prefixes"),
        job.out,
        bucket_width=settings["bucket_width"],
        headline_alpha=settings["headline_alpha"],
        score_label=settings["score_label"],
    )
    return Outcome({"figures": len(written)})


def report(job: JobContext) -> Outcome:
    """The page; inputs are runs as "runs/…", diagnoses as "dynamics/…", and the objects of other assets by name."""
    import json

    import pandas as pd

    from bai_pipeline.report import StudyResults, write_report

    settings, inputs = job.spec.settings, job.inputs
    runs = group_of(inputs, "runs")
    tables = {name: pd.read_parquet(inputs[name] / f"{name}.parquet") for name in ("paradigm_table", "ratio_table")}
    advice = inputs["ratio_recommendation"]
    weights = json.loads((inputs["merge_weights"] / "merge_weights.json").read_text(encoding="utf-8"))
    results = StudyResults(
        study=settings["study"],
        notes=(),
        paradigms=tables["paradigm_table"],
        ratios=tables["ratio_table"],
        comparisons={name: pd.read_parquet(inputs[name] / f"{name}_comparisons.parquet") for name in tables},
        runs=table_of_runs(runs, "steps"),
        responses=table_of_runs(runs, "responses"),
        prefixes=table_of_runs(runs, "prefixes"),
        verdicts=verdicts_of(group_of(inputs, "dynamics")),
        recommendation=pd.read_parquet(advice / "goals.parquet"),
        next_alphas=pd.read_parquet(advice / "next_alphas.parquet"),
        case_studies=(inputs["case_studies"] / "case_studies.md").read_text(encoding="utf-8"),
        contamination=pd.read_csv(inputs["contamination"] / "summary.csv"),
        weights=pd.DataFrame(
            [{"merge": row["merge"], **row["weights"], "weight_sum": row["weight_sum"]} for row in reversed(weights)]
        )[::-1],
        lineage=pd.DataFrame(settings["lineage"]),
        costs=_costs(job),
        bucket_width=settings["bucket_width"],
        headline_alpha=settings["headline_alpha"],
        score_label=settings["score_label"],
    )
    write_report(job.out, results)
    return Outcome({"runs": len(runs)})


def _costs(job: JobContext) -> "pd.DataFrame":
    """What each run took, as its job reported it; a job without a result any more has no row."""
    import pandas as pd

    rows, runs = [], group_of(job.inputs, "runs")
    for name, (init, seed, _) in zip(runs, runs_of(runs), strict=True):
        result = job.result_of(job.spec.settings["run_jobs"][name])
        if result is not None:
            names = ("steps", "sampled_tokens", "cpu_seconds", *(f"{phase}_seconds" for phase in _PHASES))
            rows.append({"init": init, "seed": seed, **{name: result.metadata.get(name) for name in names}})
    return pd.DataFrame(rows, columns=None if rows else ["init", "seed"])
