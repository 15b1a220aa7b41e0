"""Local benchmarks as lm-eval tasks: generation, extraction of the final answer, exact match.

Importing this module imports lm_eval (about two seconds).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
from lm_eval.api.filter import Filter
from lm_eval.api.registry import register_filter
from lm_eval.tasks import TaskManager

from bai_pipeline.evals.benchmarks import BenchmarkProblem
from bai_pipeline.settings import EvalSettings
from bai_pipeline.synthetic.tasks import extract_answer

FILTER = "final_answer"
METRIC = "exact_match"
NO_ANSWER = ""
"""What a response without a final answer is scored as; no problem has an empty answer (see `read_benchmark`)."""


@register_filter("bai_final_answer")
class FinalAnswerFilter(Filter):  # type: ignore[misc]  # lm_eval is not typed
    """Replace each response by its final answer, or by `NO_ANSWER`."""

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]) -> list[list[str]]:
        """`resps` holds the responses to each of `docs`; the result has the same nesting."""
        return [[extract_answer(response) or NO_ANSWER for response in responses] for responses in resps]


def task_config(benchmark: str, problems: Sequence[BenchmarkProblem], settings: EvalSettings) -> dict[str, Any]:
    """The lm-eval task configuration of one benchmark; the problems stay in memory, no cache is written."""
    rows = [{"id": p.id, "prompt": p.prompt, "answer": p.answer} for p in problems]

    def load(**_: object) -> dict[str, datasets.Dataset]:
        return {"test": datasets.Dataset.from_list(rows)}

    return {
        "task": benchmark,
        "custom_dataset": load,
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "generate_until",
        "doc_to_text": _prompt,
        "doc_to_target": _answer,
        "generation_kwargs": {
            "until": [],
            "do_sample": settings.temperature > 0,
            "temperature": settings.temperature,
            "max_gen_toks": settings.max_new_tokens,
        },
        "filter_list": [{"name": FILTER, "filter": [{"function": "bai_final_answer"}, {"function": "take_first"}]}],
        "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def load_tasks(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """lm-eval's task dictionary; its 14,000 stock tasks are not indexed."""
    loaded: dict[str, Any] = TaskManager(include_defaults=False).load(list(configs))
    return loaded


def _prompt(doc: dict[str, str]) -> str:
    return doc["prompt"]


def _answer(doc: dict[str, str]) -> str:
    return doc["answer"]
