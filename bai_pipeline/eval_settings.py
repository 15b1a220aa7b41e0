"""Settings of the evaluation, and of the model that judges; and what a plan has to know of benchmarks."""

import os
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from bai_pipeline.settings import Count, Positive, Settings

REGISTERED: Final = frozenset(
    {
        *("mmlu_pro", "mmlu", "supergpqa", "livebench", "mixeval_hard", "arena_hard", "aime_2024", "math"),
        "mbpp_plus",
    }
)
"""The benchmarks of `evals.registry`, whose data is fetched; any other is of the embedded world's schema."""


def data_root() -> Path:
    """Where benchmarks are kept: $BAI_DATA, else ~/.cache/bai_pipeline/data."""
    return Path(os.environ.get("BAI_DATA") or "~/.cache/bai_pipeline/data").expanduser()


def benchmark_directory(name: str, root: Path | None = None) -> Path:
    """The directory of a benchmark below `root` (default: `data_root`)."""
    return (data_root() if root is None else root) / "benchmarks" / name


VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JudgeSettings(Settings):
    """A judge behind an OpenAI-compatible server.

    Only `model`, `temperature`, `max_tokens` and `length_control` can change a result; the other fields say how and at
    what price it is obtained.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # a key pasted into the wrong field is not repeated

    url: str
    """Base address, such as http://host:8000/v1: requests go to `<url>/chat/completions`. No user name, query or
    fragment."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the judge model, as the server knows it."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Of the judge's sampling; 0 is greedy."""
    max_tokens: Count = 4096
    """Longest answer of the judge, in tokens, its thinking included (4096: ArenaHard v0.1's configuration)."""
    timeout: Positive = 600.0
    """Seconds without a byte from the server until a request counts as failed."""
    max_retries: Annotated[int, Field(ge=0)] = 6
    """Further attempts at a request after connection errors, time-outs, HTTP 408, 409, 429 and 5xx, and answers that
    are no completion."""
    retry_wait: Positive = 1.0
    """Seconds before the second attempt; doubled with each further one up to a minute, and shortened by up to half at
    random. A server's Retry-After comes first."""
    parallel: Count = 8
    """Requests under way at once."""
    price_input: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars per million prompt tokens."""
    price_output: Annotated[float, Field(ge=0.0)] = 0.0
    """Dollars per million completion tokens."""
    budget: Annotated[float, Field(ge=0.0)] | None = None
    """Dollars that one run (one call of a judging function) may spend; None: no cap, 0: only cached answers are used.
    When it is reached no request starts, but those under way end: it can be overrun by `parallel` requests."""
    api_key_variable: str = "BAI_JUDGE_API_KEY"
    """Name of the environment variable that holds the key. Not set: no key is sent, as local servers allow."""
    length_control: bool = True
    """Report the length-controlled win rate of pairwise judging beside the plain one."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("expected a base address such as http://host:8000/v1")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("expected an address without user name, query and fragment: the key is in the environment")
        return url.rstrip("/")

    @field_validator("api_key_variable")
    @classmethod
    def _check_variable(cls, name: str) -> str:
        if not VARIABLE_NAME.fullmatch(name):
            raise ValueError("expected the name of an environment variable (letters, digits, _), not a key")
        return name

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.budget and not (self.price_input or self.price_output):
            raise ValueError(f"a budget of {self.budget} dollars caps nothing where price_input and price_output are 0")
        return self


class BenchmarkOverrides(Settings):
    """What one benchmark is asked otherwise than the registry has it (`bai evals list`); null: as there."""

    shots: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before each question."""
    chat: bool | None = None
    """Whether prompts go through the chat template."""
    samples: Count | None = None
    """Responses to each question, whose scores are averaged."""
    temperature: Annotated[float, Field(ge=0.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    max_new_tokens: Count | None = None
    limit: Count | None = None
    """Questions, chosen by a hash of their ids; null: all, or the limit for all benchmarks."""


class EvalSettings(Settings):
    """Evaluation."""

    benchmarks: tuple[str, ...]
    """Names of the registry (`bai evals list`), of the embedded world's tasks, or of data.benchmarks."""
    engine: Literal["embedded", "vllm"]
    """Who generates: this package, or vLLM."""
    max_new_tokens: Count | None
    """Longest response to any benchmark; null: the registry's, which leaves room for thinking."""
    temperature: Annotated[float, Field(ge=0.0)] | None
    """Of any benchmark, 0 is greedy; null: the registry's."""
    limit: Count | None
    """Questions of each benchmark; null: all."""
    batch_size: Count
    """Responses generated, or inputs scored, at a time."""
    overrides: dict[str, BenchmarkOverrides]
    """By benchmark."""
    code_isolation: Literal["bubblewrap", "none"]
    """Where untrusted programs run. `none` runs them as the user who evaluates: for machines that are thrown away."""
    judge: JudgeSettings | None
    """The model that judges answers; null: benchmarks that need one are not run."""


class TableSettings(Settings):
    """The tables that are made of scores."""

    case_studies: Annotated[int, Field(ge=0)]
    """Questions whose responses are shown side by side."""
    comparison_resamples: Count
    """Bootstrap resamples of the comparisons between models, at least: many comparisons take more."""
