"""Jobs that measure: benchmark scores, and the tables that are made of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.jobs.context import JobContext, Outcome, computing_with_models

if TYPE_CHECKING:
    import pandas as pd

    from bai_pipeline.paper import PaperTable

_NOT_RUN = "not materialized"
_NO_ROLE = "the study names no SFT model for it"


@computing_with_models
def evaluate(job: JobContext) -> Outcome:
    from bai_pipeline.evals import evaluate_checkpoint

    settings = EvalSettings.model_validate(job.spec.settings)
    data = {name: path for name in settings.benchmarks if (path := job.inputs["data"] / name).is_dir()}
    metrics = evaluate_checkpoint(
        job.inputs["model"],
        job.spec.inputs["model"],
        data,
        job.out,
        settings,
        job.spec.seed or 0,
        job.reporter,
        cache=job.cache.parent,
    )
    return Outcome(metrics)


def ratio_table(job: JobContext) -> Outcome:
    """The paper's Table 2: one row per alpha; inputs are named "ALPHA/SEED"."""
    from bai_pipeline import evals, paper

    settings = job.spec.settings
    labels = {alpha: alpha for alpha in settings["alphas"]}
    scores = _scores(job.inputs, labels, settings["seeds"])
    holes = dict.fromkeys(settings["alphas"], _NOT_RUN) | settings["holes"]
    table = evals.ratio_table(scores, settings["alphas"], holes, settings["benchmarks"], seeds=settings["seeds"])
    return _write_table(job, table, labels, "ratio_table", (evals.paper_ratio_table(), paper.TABLE_2))


def paradigm_table(job: JobContext) -> Outcome:
    """The paper's Table 1: Paradigms 1 to 3 and BAI, after the models that they start from."""
    from bai_pipeline import evals, paper

    settings = job.spec.settings
    labels = _paradigm_labels(settings)
    holes = {f"{role} SFT": _NOT_RUN for role in settings["sft"]} | dict.fromkeys(labels.values(), _NOT_RUN)
    holes |= {f"Paradigm {n}": _NO_ROLE for n in (1, 3) if settings[f"paradigm_{n}"] is None}
    holes |= {labels[part]: reason for part, reason in settings["holes"].items()}
    scores = _scores(job.inputs, labels, settings["seeds"])
    table = evals.paradigm_table(scores, list(labels.values()), holes, settings["benchmarks"], seeds=settings["seeds"])
    return _write_table(job, table, labels, "paradigm_table", (evals.paper_paradigm_table(), paper.TABLE_1))


def case_studies(job: JobContext) -> Outcome:
    """The paper's Tables 3 and 4: the same questions answered by every model, side by side."""
    from bai_pipeline import evals

    settings = job.spec.settings
    labels = _paradigm_labels(settings)
    samples = {}
    for label, seed, path in _evaluations(job.inputs, labels, settings["seeds"]):
        if seed in (-1, settings["seeds"][0]):
            samples[label] = evals.read_samples(path)
    studies = evals.case_studies(samples, settings["count"], job.spec.seed or 0)
    evals.write_case_studies(studies, job.out)
    return Outcome({"questions": studies[["benchmark", "id"]].drop_duplicates().shape[0], "models": len(samples)})


def contamination(job: JobContext) -> Outcome:
    """Which benchmark questions stand in the training data; a check says whether any does."""
    from bai_pipeline import evals

    benchmarks = sorted(path for path in job.inputs["benchmark_data"].iterdir() if path.is_dir())
    questions = {path.name: list(evals.question_texts(path)) for path in benchmarks}
    corpora = {
        f"{name}/{table.stem}" if name == "sft_data" else name: table
        for name, path in job.inputs.items()
        if name != "benchmark_data"
        for table in sorted(path.rglob("*.parquet"))
    }
    found = evals.find_contamination(questions, corpora, n=job.spec.settings["n"])
    hits, summary = found.to_frame(), found.summary()
    hits.to_parquet(job.out / "hits.parquet", index=False)
    hits.to_csv(job.out / "hits.csv", index=False)
    summary.to_csv(job.out / "summary.csv", index=False)
    (job.out / "contamination.md").write_text(evals.contamination_markdown(found), encoding="utf-8")
    counts = {name: int(summary[name].sum()) for name in ("contaminated", "judged", "questions")}
    job.reporter.check("benchmarks_absent_from_training", not counts["contaminated"], severity="error", **counts)
    return Outcome(counts)


def _paradigm_labels(settings: Mapping[str, Any]) -> dict[str, str]:
    """Input → row of the paradigm table, in its order."""
    labels = {"base_model": "Base", **{f"{role}_sft": f"{role} SFT" for role in settings["sft"]}}
    if settings["paradigm_3"] is not None:
        labels[f"{settings['paradigm_3']}_sft"] = f"Paradigm 2 ({settings['paradigm_3']} SFT alone)"
    headline = settings["headline_alpha"]
    return labels | {"paradigm_1": "Paradigm 1", "paradigm_3": "Paradigm 3", headline: f"BAI (alpha {headline})"}


def _write_table(
    job: JobContext,
    table: "pd.DataFrame",
    labels: Mapping[str, str],
    name: str,
    from_paper: "tuple[pd.DataFrame, PaperTable]",
) -> Outcome:
    """A table, the comparisons between its rows, and the paper's beside it."""
    from bai_pipeline import evals

    settings = job.spec.settings
    questions = evals.question_table(_evaluations(job.inputs, labels, settings["seeds"]))
    comparisons = evals.paired_comparisons(questions, list(labels.values()), resamples=settings["resamples"])
    evals.write_table(table, job.out, name, from_paper, comparisons=comparisons)
    table.to_parquet(job.out / f"{name}.parquet")
    comparisons.to_parquet(job.out / f"{name}_comparisons.parquet")
    holes = int(table["average"].isna().sum())
    return Outcome({"rows": len(table), "holes": holes, "comparisons": len(comparisons)})


def _evaluations(
    inputs: Mapping[str, Path], labels: Mapping[str, str], seeds: list[int]
) -> Iterator[tuple[str, int, Path]]:
    """(row, seed, directory) of all evaluations; a model that was not run by PPO has seed -1."""
    for name, label in labels.items():
        for seed in (None, *seeds):
            path = inputs.get(name if seed is None else f"{name}/{seed}")
            if path is not None:
                yield label, -1 if seed is None else seed, path


def _scores(inputs: Mapping[str, Path], labels: Mapping[str, str], seeds: list[int]) -> "pd.DataFrame":
    """All scores tables with their row and seed."""
    import pandas as pd

    from bai_pipeline.evals.tables import SCORE_COLUMNS

    found = [
        pd.read_parquet(path / "scores.parquet").assign(row=label, seed=seed)
        for label, seed, path in _evaluations(inputs, labels, seeds)
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(SCORE_COLUMNS))
