"""Configurations of lm-eval tasks over rows in memory; nothing is downloaded and no cache is written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bai_pipeline.evals.grades import Row
from bai_pipeline.evals.registry.benchmark import Asking, NotRunError, Question, Task


def stock(path: str, splits: Mapping[str, Sequence[Row]], **changes: Any) -> dict[str, Any]:
    """One of lm-eval's own tasks on our rows.

    Args:
        path: of its YAML below lm_eval/tasks.
        splits: rows by the names that the task gives its splits.
        changes: keys of its configuration that are replaced.
    """
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(Path(lm_eval.tasks.__file__).parent / path, resolve_func=True, recursive=True)
    for key in ("dataset_path", "dataset_name", "dataset_kwargs", "tag", "task_alias"):
        config.pop(key, None)
    return config | {"custom_dataset": _in_memory(splits)} | changes


def generated(name: str, questions: Sequence[Question], prompts: Sequence[str], asking: Asking) -> Task:
    """A task of ours: a prompt as it is, graded after lm-eval has collected the responses."""
    rows = [{"id": q.id, "prompt": prompt} for q, prompt in zip(questions, prompts, strict=True)]
    config = {
        "task": name,
        "custom_dataset": _in_memory({"test": rows}),
        "test_split": "test",
        "num_fewshot": 0,
        "output_type": "generate_until",
        "doc_to_text": _prompt,
        "doc_to_target": _no_target,
        **graded_later(asking),
        "generation_kwargs": asking.generation(),
        "metadata": {"version": 1.0},
    }
    return Task(config, tuple(range(len(questions))))


def worked_examples(
    splits: Mapping[str, Sequence[Row]], split: str, field: str, value: str, shots: int
) -> dict[str, list[Row]]:
    """The rows of a split that lm-eval takes worked examples from; none where none are asked for.

    Raises:
        NotRunError: there are fewer than `shots`.
    """
    if not shots:
        return {}
    rows = [row for row in splits.get(split, ()) if row[field] == value]
    if len(rows) < shots:
        raise NotRunError(f"expected {shots} worked examples of {value} in the split {split!r}, got {len(rows)}")
    return {split: rows}


def few_shot(shots: int) -> dict[str, Any]:
    """Keys of a task with so many worked examples."""
    return {"num_fewshot": shots} | ({} if shots else {"fewshot_split": None})


def graded_later(asking: Asking) -> dict[str, Any]:
    """Keys of a task whose responses lm-eval only collects."""
    return {
        "repeats": asking.samples,
        "filter_list": [{"name": "responses", "filter": [{"function": "custom", "filter_fn": _unchanged}]}],
        "process_results": _no_metrics,
        "metric_list": [],
    }


def _in_memory(splits: Mapping[str, Sequence[Row]]) -> Callable[..., Any]:
    def load(**_: object) -> dict[str, Any]:
        import datasets

        return {name: datasets.Dataset.from_list([dict(row) for row in rows]) for name, rows in splits.items()}

    return load


def _prompt(doc: Mapping[str, str]) -> str:
    return doc["prompt"]


def _no_target(doc: Mapping[str, str]) -> str:
    return ""


def _unchanged(responses: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    return list(responses)


def _no_metrics(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    return {}
