"""All that the page of a study is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class StudyResults:
    """The results of one study. A table that is empty, or None, becomes a hole on the page that says so.

    `init` is "paradigm_1", "paradigm_3" or "alpha 0.5" (see `curves`).
    """

    study: str
    notes: Sequence[str]
    """Remarks of the study, printed as they are (what was not run, which chains share seeds)."""
    paradigms: pd.DataFrame
    """Made by `paradigm_table`."""
    ratios: pd.DataFrame
    """Made by `ratio_table`."""
    comparisons: Mapping[str, pd.DataFrame]
    """Of the rows of "paradigm_table" and "ratio_table", made by `paired_comparisons`; without them no row is marked
    as best."""
    runs: pd.DataFrame
    """`steps` tables with an init."""
    responses: pd.DataFrame
    """`responses` tables with an init."""
    prefixes: pd.DataFrame
    """`prefixes` tables with an init."""
    verdicts: pd.DataFrame
    """init, seed, detector, verdict, confidence, reason, evidence (JSON)."""
    recommendation: pd.DataFrame
    """goal, alpha (text or null), value, low, high, unit, resolved, reason."""
    next_alphas: pd.DataFrame
    """alpha, reason."""
    case_studies: str | None
    """Markdown, made by `case_studies_markdown`."""
    contamination: pd.DataFrame | None
    """A line per benchmark: how many of its questions stand in the training data."""
    weights: pd.DataFrame
    """A line per merge: merge, a column per model with its weight, weight_sum."""
    lineage: pd.DataFrame
    """asset, part, seed, job, object, digest."""
    costs: pd.DataFrame
    """init, seed, steps, sampled_tokens, cpu_seconds, and wall seconds of each phase ("sample_seconds", …)."""
    bucket_width: int
    """Tokens of a bucket of response lengths."""
    headline_alpha: str
    """The ratio that stands for BAI."""
    score_label: str = "score"
    """What scores are, with their unit where it is known."""
