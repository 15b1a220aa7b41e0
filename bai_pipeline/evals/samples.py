"""The per-sample tables of evaluations, as tables of several models need them."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from bai_pipeline.evals.comparisons import QUESTION_COLUMNS
from bai_pipeline.evals.weighted import question_scores


def read_samples(evaluation: Path) -> dict[str, pd.DataFrame]:
    """The samples table of every benchmark that an evaluation ran."""
    return {path.stem: pd.read_parquet(path) for path in sorted((evaluation / "samples").glob("*.parquet"))}


def graded_questions(samples: pd.DataFrame) -> pd.DataFrame:
    """id, score and weight of every question that was graded, its repeats averaged."""
    return question_scores(samples[samples["score"].notna()])


def question_table(evaluations: Iterable[tuple[str, int, Path]]) -> pd.DataFrame:
    """One line per row, seed, benchmark and question: what `paired_comparisons` takes.

    Args:
        evaluations: (row, seed, directory of an evaluation).
    """
    found = []
    for row, seed, directory in evaluations:
        for path in sorted((directory / "samples").glob("*.parquet")):
            samples = pd.read_parquet(path, columns=["id", "repeat", "score", "weight"])
            found.append(graded_questions(samples).assign(row=row, seed=seed, benchmark=path.stem))
    if not found:
        return pd.DataFrame(columns=list(QUESTION_COLUMNS))
    return pd.concat(found, ignore_index=True)[list(QUESTION_COLUMNS)]
