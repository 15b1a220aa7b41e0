"""Evaluate a checkpoint on local benchmarks with lm-eval, in process and offline."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from bai_pipeline.errors import DataError, EvaluationError
from bai_pipeline.evals.benchmarks import benchmark_path, read_benchmark
from bai_pipeline.progress import Reporter
from bai_pipeline.settings import EvalSettings

Metrics = dict[str, float | int | str]


def evaluate(model: Path, data: Path, out: Path, settings: EvalSettings, seed: int, report: Reporter) -> Metrics:
    """Score a checkpoint: exact match of the final answer, with lm-eval's standard errors.

    Each prompt goes through the checkpoint's chat template; the model answers greedily, or samples when
    `settings.temperature` is above 0. `extract_answer` finds the final answer in the response.

    Writes:
        scores.parquet: benchmark, metric, score (share in [0, 1]), stderr (null at one problem), n (problems).
        samples/<benchmark>.parquet: id, prompt, response, extracted (null without an answer), answer, correct.

    Args:
        model: Hugging Face directory with weights, tokenizer and chat template.
        data: directory of `<benchmark>.jsonl` files, see `benchmarks`.
        out: existing directory.
        seed: used only when sampling.

    Returns:
        score and stderr per benchmark, their mean, and what the responses were like.

    Raises:
        DataError: a benchmark is absent or malformed; nothing is written.
        CheckpointError: there is no checkpoint, or it has no chat template; nothing is written.
        EvaluationError: lm-eval is not installed; nothing is written.
    """
    problems = {name: read_benchmark(benchmark_path(data, name)) for name in settings.benchmarks}
    if not problems:
        raise DataError("expected at least one benchmark in the settings, got none; nothing was evaluated")

    # lm_eval and torch take seconds to import: not before they are needed.
    try:
        import lm_eval.evaluator
    except ModuleNotFoundError as error:
        raise EvaluationError(
            f'expected the extra "evals" to be installed, got {error}; run pip install "bai_pipeline[evals]"; '
            "nothing was evaluated"
        ) from error

    from bai_pipeline.evals.lm import SamplerLM
    from bai_pipeline.evals.tasks import load_tasks, task_config

    lm = SamplerLM.from_directory(model, batch_size=settings.batch_size, seed=seed, report=report)
    with _quiet_lm_eval():
        tasks = load_tasks([task_config(name, rows, settings) for name, rows in problems.items()])
        results = lm_eval.evaluator.evaluate(
            lm, tasks, apply_chat_template=True, bootstrap_iters=settings.bootstrap_iterations, log_samples=True
        )
    samples = {name: _samples_table(results["samples"][name]) for name in problems}
    scores = [_score_row(name, results["results"][name], len(samples[name])) for name in problems]
    pd.DataFrame(scores).to_parquet(out / "scores.parquet", index=False)
    (out / "samples").mkdir()
    for name, table in samples.items():
        table.to_parquet(out / "samples" / f"{name}.parquet", index=False)

    metrics: Metrics = {}
    for row in scores:
        metrics[row["benchmark"]] = row["score"]
        if not isnan(row["stderr"]):
            metrics[f"{row['benchmark']}_stderr"] = row["stderr"]
    metrics["average"] = sum(row["score"] for row in scores) / len(scores)
    metrics["no_answer_share"] = float(pd.concat(samples.values())["extracted"].isna().mean())
    metrics["truncated_share"] = lm.truncated / lm.responses
    metrics["response_length_mean"] = lm.tokens / lm.responses
    return metrics


def _score_row(benchmark: str, result: Mapping[str, Any], n: int) -> dict[str, Any]:
    from bai_pipeline.evals.tasks import FILTER, METRIC

    stderr = result[f"{METRIC}_stderr,{FILTER}"]
    return {
        "benchmark": benchmark,
        "metric": METRIC,
        "score": float(result[f"{METRIC},{FILTER}"]),
        "stderr": float("nan") if stderr == "N/A" else float(stderr),  # lm-eval's mark for one problem
        "n": n,
    }


def _samples_table(samples: list[dict[str, Any]]) -> pd.DataFrame:
    from bai_pipeline.evals.tasks import METRIC, NO_ANSWER

    rows = [
        {
            "id": sample["doc"]["id"],
            "prompt": sample["doc"]["prompt"],
            "response": sample["resps"][0][0],
            "extracted": None if sample["filtered_resps"][0] == NO_ANSWER else sample["filtered_resps"][0],
            "answer": sample["target"],
            "correct": bool(sample[METRIC]),
        }
        for sample in sorted(samples, key=lambda sample: int(sample["doc_id"]))
    ]
    table = pd.DataFrame(rows)
    return table.astype(dict.fromkeys(("id", "prompt", "response", "extracted", "answer"), "str"))


@contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """lm-eval warns about options that these tasks use on purpose (a data set in memory)."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
