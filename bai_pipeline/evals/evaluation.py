"""Evaluate a checkpoint on benchmarks: lm-eval asks, an engine answers, the registry grades; offline."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.eval_settings import EvalSettings
from bai_pipeline.evals.browse import write_pages
from bai_pipeline.evals.engines.interface import Engine
from bai_pipeline.evals.journal import Journal
from bai_pipeline.evals.judging import BudgetExceeded
from bai_pipeline.evals.registry import find_benchmark
from bai_pipeline.evals.registry.benchmark import (
    Answered,
    Asking,
    Benchmark,
    Graded,
    NotRunError,
    Question,
    Splits,
    Task,
    Tools,
    judge_of,
)
from bai_pipeline.evals.samples import graded_questions
from bai_pipeline.evals.splits import read_benchmark
from bai_pipeline.evals.weighted import weighted_mean
from bai_pipeline.progress import Reporter

Metrics = dict[str, float | int | str]


@dataclass(frozen=True)
class Evaluated:
    """A benchmark that was run."""

    samples: pd.DataFrame
    """One row per question and repeat, see `samples_table`."""
    score: dict[str, Any]
    """A row of scores.parquet."""
    numbers: Mapping[str, float]
    """Readings beside the score."""


def evaluate(
    engine: Engine,
    data: Mapping[str, Path],
    out: Path,
    settings: EvalSettings,
    seed: int,
    report: Reporter,
    *,
    journal: Path,
    tools: Tools,
    title: str = "responses",
) -> Metrics:
    """Score a model on benchmarks.

    A benchmark that cannot be run (no data, no judge, no chat template, no room for a response, a budget that is spent)
    is a hole with its reason, never a zero.

    Writes:
        scores.parquet: benchmark, metric, score (share in [0, 1]), stderr (null at one question), n (questions),
            max_new_tokens, reason (null when the benchmark was run; else score and stderr are null).
        samples/<benchmark>.parquet: id, group, repeat, prompt, response, extracted (null without an answer), answer,
            score, weight, tokens, finish_reason, detail.
        samples/<benchmark>.html: the same, to browse.

    Args:
        data: the directory of each benchmark's rows, see `data`; an absent one is a hole.
        out: existing directory.
        seed: used only when sampling.
        title: of the pages.
        journal: file of what this model has answered before; it grows while this runs.

    Returns:
        score and stderr per benchmark, the mean of the scores, and what the responses were like.

    Raises:
        DataError: a benchmark's rows are malformed, or none is asked for; nothing is written.
        EvaluationError: lm-eval is not installed; nothing is written.
    """
    if not settings.benchmarks:
        raise DataError("expected at least one benchmark in the settings, got none; nothing was evaluated")
    _require_lm_eval()
    plans = {name: _plan(name, data.get(name), settings) for name in settings.benchmarks}
    kept = Journal(journal)
    (out / "samples").mkdir()
    rows: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    metrics: Metrics = {}
    for place, (name, plan) in enumerate(plans.items()):
        report.log(f"benchmark {name} ({place + 1} of {len(plans)})")
        try:
            if isinstance(plan, str):
                raise NotRunError(plan)
            done = _run(plan, engine, kept, seed, tools, report)
        except (NotRunError, BudgetExceeded) as error:
            report.log(f"benchmark {name} was not run: {error}")
            rows.append(_hole(name, str(error)))
            continue
        done.samples.to_parquet(out / "samples" / f"{name}.parquet", index=False)
        write_pages({name: done.samples}, out / "samples", title)
        rows.append(done.score)
        tables.append(done.samples)
        metrics |= {f"{name}_{key}": value for key, value in done.numbers.items() if isfinite(value)}
    scores = scores_table(rows)
    scores.to_parquet(out / "scores.parquet", index=False)
    return metrics | _summary(scores, tables)


@dataclass(frozen=True)
class _Plan:
    benchmark: Benchmark
    asking: Asking
    questions: list[Question]
    splits: Splits


def asking_of(benchmark: Benchmark, settings: EvalSettings) -> Asking:
    """How a benchmark is asked: the registry's way, then the settings for all, then those for this one."""
    changes: dict[str, Any] = {}
    if settings.max_new_tokens is not None:
        changes["max_new_tokens"] = settings.max_new_tokens
    if settings.temperature is not None:
        changes["temperature"] = settings.temperature
    if own := settings.overrides.get(benchmark.name):
        changes |= {key: value for key, value in own.model_dump(exclude={"limit"}).items() if value is not None}
    return replace(benchmark.asking, **changes)


def limited(name: str, questions: Sequence[Question], limit: int | None) -> list[Question]:
    """`limit` of the questions in their order, chosen by a hash of their ids: a larger limit keeps the smaller's."""
    if limit is None or limit >= len(questions):
        return list(questions)
    order = sorted(range(len(questions)), key=lambda i: sha256(f"{name}/{questions[i].id}".encode()).digest())
    return [questions[i] for i in sorted(order[:limit])]


def samples_table(
    answered: Sequence[Answered], finish_reasons: Sequence[Sequence[str]], graded: Graded
) -> pd.DataFrame:
    """One row per question and repeat; a response that nobody could grade has a null score."""
    rows = []
    for item, reasons, grades in zip(answered, finish_reasons, graded.grades, strict=True):
        for repeat, response in enumerate(item.responses):
            grade = grades[repeat] if grades else None
            rows.append(
                {
                    "id": item.question.id,
                    "group": item.question.group,
                    "repeat": repeat,
                    "prompt": item.prompt,
                    "response": response,
                    "extracted": grade.extracted if grade else None,
                    "answer": item.target,
                    "score": grade.score if grade else nan,
                    "weight": item.question.weight * (grade.weight if grade else 0.0),
                    "tokens": item.tokens[repeat],
                    "finish_reason": reasons[repeat],
                    "detail": grade.detail if grade else "not graded",
                }
            )
    texts = ("id", "group", "prompt", "response", "extracted", "answer", "finish_reason", "detail")
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(texts, "str") | {"score": "float64", "weight": "float64"})


def scores_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """scores.parquet as `evaluate` describes it."""
    columns = ["benchmark", "metric", "score", "stderr", "n", "max_new_tokens", "reason"]
    kinds = {"benchmark": "str", "metric": "str", "score": "float64", "stderr": "float64", "n": "int64"}
    return pd.DataFrame(rows, columns=columns).astype(kinds | {"max_new_tokens": "Int64", "reason": "str"})


def _plan(name: str, directory: Path | None, settings: EvalSettings) -> _Plan | str:
    """What is asked, or why nothing is."""
    benchmark = find_benchmark(name)
    if directory is None:
        return f"no data: bai data fetch {name}"
    splits = read_benchmark(benchmark, directory)
    own = settings.overrides.get(name)
    limit = own.limit if own and own.limit is not None else settings.limit
    questions = limited(name, benchmark.questions(splits), limit)
    return _Plan(benchmark, asking_of(benchmark, settings), questions, splits)


def _run(plan: _Plan, engine: Engine, journal: Journal, seed: int, tools: Tools, report: Reporter) -> Evaluated:
    import lm_eval.evaluator
    from lm_eval.tasks import TaskManager

    from bai_pipeline.evals.lm import EngineLM

    benchmark, asking, questions = plan.benchmark, plan.asking, plan.questions
    if asking.chat and not engine.has_chat_template():
        raise NotRunError("the model has no chat template")
    if "judge" in benchmark.needs:
        judge_of(tools)
    lm = EngineLM(engine, journal, chat=asking.chat, seed=seed, progress=report.progress)
    with _quiet_lm_eval():
        tasks = benchmark.tasks(questions, plan.splits, asking)
        loaded = TaskManager(include_defaults=False).load([task.config for task in tasks])
        results = lm_eval.evaluator.evaluate(
            lm, loaded, apply_chat_template=asking.chat, bootstrap_iters=0, log_samples=True
        )
    answered, reasons = _collected(benchmark, tasks, results["samples"], questions, lm)
    graded = benchmark.grade(answered, replace(tools, support=plan.splits, report=report))
    samples = samples_table(answered, reasons, graded)
    scores = graded_questions(samples)
    if scores.empty:
        raise NotRunError("no response could be graded")
    mean, stderr = weighted_mean(scores["score"].to_numpy(), scores["weight"].to_numpy())
    row = {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "score": mean,
        "stderr": stderr,
        "n": len(scores),
        "max_new_tokens": lm.max_new_tokens,
        "reason": None,
    }
    return Evaluated(samples, row, graded.numbers)


def _collected(
    benchmark: Benchmark,
    tasks: Sequence[Task],
    logged: Mapping[str, Sequence[Mapping[str, Any]]],
    questions: Sequence[Question],
    lm: Any,
) -> tuple[list[Answered], list[list[str]]]:
    """What lm-eval logged, in the order of the questions, and why each response ended."""
    answered: dict[int, Answered] = {}
    reasons: dict[int, list[str]] = {}
    for task in tasks:
        name = task.config["task"]
        documents = {sample["doc_id"]: sample for sample in logged[name]}
        if len(documents) != len(task.questions):
            raise EvaluationError(f"{name}: asked {len(task.questions)} questions, lm-eval logged {len(documents)}")
        for number, index in enumerate(task.questions):
            sample = documents[number]
            asked = ((name, number, repeat) for repeat in range(len(sample["resps"][0])))
            own = [lm.responses[key] for key in asked if key in lm.responses]
            responses = sample["resps"][0] if own else [_most_likely(sample)]
            answered[index] = Answered(
                question=questions[index],
                prompt=sample["arguments"][0][0],
                responses=tuple(responses),
                tokens=tuple(r.tokens for r in own) or (0,),
                target=benchmark.target(questions[index].row),
                metrics={key: sample[key] for key in sample["metrics"]},
            )
            reasons[index] = [r.finish_reason for r in own] or ["choice"]
    return [answered[i] for i in range(len(questions))], [reasons[i] for i in range(len(questions))]


def _most_likely(sample: Mapping[str, Any]) -> str:
    """The continuation of the highest likelihood; the first of equals, as lm-eval counts."""
    likelihoods = [float(response[0][0]) for response in sample["resps"]]
    return str(sample["arguments"][likelihoods.index(max(likelihoods))][1]).strip()


def _hole(name: str, reason: str) -> dict[str, Any]:
    return {
        "benchmark": name,
        "metric": find_benchmark(name).metric,
        "score": nan,
        "stderr": nan,
        "n": 0,
        "max_new_tokens": None,
        "reason": reason,
    }


def _summary(scores: pd.DataFrame, samples: Sequence[pd.DataFrame]) -> Metrics:
    run = scores[scores["reason"].isna()]
    metrics: Metrics = {}
    for row in run.to_dict("records"):
        metrics[str(row["benchmark"])] = row["score"]
        if not isnan(row["stderr"]):
            metrics[f"{row['benchmark']}_stderr"] = row["stderr"]
    metrics["not_run"] = len(scores) - len(run)
    if not run.empty:
        metrics["average"] = float(run["score"].mean())
    generated = [table[table["finish_reason"] != "choice"] for table in samples]
    if responses := sum(map(len, generated)):
        together = pd.concat([table for table in generated if len(table)])
        metrics["no_answer_share"] = float(together["extracted"].isna().mean())
        metrics["truncated_share"] = float((together["finish_reason"] == "length").sum() / responses)
        metrics["response_length_mean"] = float(together["tokens"].mean())
    return metrics


def _require_lm_eval() -> None:
    try:
        import lm_eval.evaluator  # noqa: F401
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f'expected the extra "evals" to be installed, got {error}; run pip install "bai_pipeline[evals]"; '
            "nothing was evaluated"
        ) from error


@contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """lm-eval warns about options that these tasks use on purpose (data in memory); datasets draws progress bars."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
