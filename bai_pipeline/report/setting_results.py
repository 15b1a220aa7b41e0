"""What the small-scale experiment measured in one setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from bai_pipeline.errors import DataError

RUN = ["chain", "init", "seed"]
"""What names a PPO run."""
UNTRAINED = ("base_model", "instruct_sft", "reasoning_sft")
"""Models of a chain that PPO did not make: scored once, with the seed -1."""


@dataclass(frozen=True)
class SettingResults:
    """One setting (a study preset) over its chains and PPO seeds. Any table may be empty."""

    study: str
    description: str
    headline_alpha: str
    """The alpha that is called BAI, fixed before the runs: "0.5"."""
    bucket_width: int
    """Tokens of a bucket of response lengths."""
    chains: Sequence[int]
    """Seeds of data, base, SFT models and reward model, as asked for."""
    seeds: Sequence[int]
    """PPO seeds of every chain, as asked for."""
    runs: pd.DataFrame
    """chain, init ("paradigm_1", "paradigm_3", "alpha 0.5"), seed, and the columns of `steps`."""
    responses: pd.DataFrame
    """chain, init, seed, step, length, score and, where known, correct."""
    prefixes: pd.DataFrame
    """chain, init, seed, step, prefix, tokens, value_error."""
    verdicts: pd.DataFrame
    """chain, init, seed, detector, verdict, confidence, reason, evidence."""
    scores: pd.DataFrame
    """chain, model (an init or one of `UNTRAINED`), seed, benchmark, score, stderr, n."""
    missing: Sequence[str]
    """What was to be run and was not, each beginning with its chain: "chain 1: …"."""
    score_label: str = "score"
    """What scores are, with their unit where it is known."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Kind of job → version of what it computes, of the jobs that made all this."""

    def __post_init__(self) -> None:
        """Raises DataError: a column is absent, or a line is there twice."""
        keys = {
            "runs": [*RUN, "step"],
            "responses": None,
            "prefixes": None,
            "verdicts": [*RUN, "detector"],
            "scores": ["chain", "model", "seed", "benchmark"],
        }
        needed = {"runs": ["length_mean"], "responses": [*RUN, "step", "length", "score"], "prefixes": [*RUN, "step"]}
        needed |= {"verdicts": ["verdict"], "scores": ["score"]}
        for name, key in keys.items():
            table: pd.DataFrame = getattr(self, name)
            if table.empty:
                continue
            absent = [c for c in [*(key or []), *needed[name]] if c not in table.columns]
            if absent:
                raise DataError(f"setting {self.study}: the table {name} has no column {', '.join(absent)}")
            twice = table[table.duplicated(key)] if key else table.head(0)
            if key and not twice.empty:
                raise DataError(
                    f"setting {self.study}: expected one line per {', '.join(key)} in {name}, got several for "
                    f"{', '.join(str(value) for value in twice[key].iloc[0])}"
                )

    @property
    def headline(self) -> str:
        """The init that is called BAI."""
        return f"alpha {self.headline_alpha}"

    def pooled(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of runs with seeds that are unique over the chains, for figures that know no chains."""
        return table if table.empty else table.assign(seed=1000 * table["chain"] + table["seed"])
