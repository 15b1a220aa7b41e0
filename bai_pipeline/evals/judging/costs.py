"""What a judging run spends."""

import threading
import time
from dataclasses import dataclass

from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.judging.cache import ChatRequest, Usage


@dataclass(frozen=True)
class CostReport:
    """The cost of one run."""

    requests: int
    """Sent to the server, repeated attempts included."""
    cached: int
    """Answers that were read from the cache."""
    retries: int
    """Of `requests`, those that repeat a failed one."""
    prompt_tokens: int
    completion_tokens: int
    estimated: int
    """Of `requests`, those whose tokens are an upper bound, for want of the server's count."""
    dollars: float
    seconds: float
    """From the start of the run to its end."""


def largest_usage(request: ChatRequest) -> Usage:
    """An upper bound on a request's tokens: the bytes of its JSON (a token of a byte-level tokenizer has at least one;
    the JSON's own characters stand for the chat template's tokens), and `max_tokens`."""
    return Usage(len(request.encoded()), request.max_tokens)


class Ledger:
    """Counts of a run, shared by its threads."""

    def __init__(self, settings: JudgeSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._requests = self._cached = self._retries = self._estimated = 0
        self._prompt_tokens = self._completion_tokens = 0

    @property
    def dollars(self) -> float:
        """Spent so far."""
        settings = self._settings
        return (
            self._prompt_tokens * settings.price_input + self._completion_tokens * settings.price_output
        ) / 1_000_000

    def admit(self, *, again: bool) -> bool:
        """Count a request that is about to be sent (`again`: it repeats one); False: the budget is reached."""
        with self._lock:
            if self._settings.budget is not None and self.dollars >= self._settings.budget:
                return False
            self._requests += 1
            self._retries += again
            return True

    def count_cached(self) -> None:
        """An answer came from the cache."""
        with self._lock:
            self._cached += 1

    def charge(self, request: ChatRequest, usage: Usage | None) -> None:
        """Count the tokens of a request that was sent; without usage, their upper bound."""
        tokens = usage if usage is not None else largest_usage(request)
        with self._lock:
            self._estimated += usage is None
            self._prompt_tokens += tokens.prompt_tokens
            self._completion_tokens += tokens.completion_tokens

    def report(self) -> CostReport:
        """The counts up to now."""
        with self._lock:
            return CostReport(
                requests=self._requests,
                cached=self._cached,
                retries=self._retries,
                prompt_tokens=self._prompt_tokens,
                completion_tokens=self._completion_tokens,
                estimated=self._estimated,
                dollars=self.dollars,
                seconds=time.monotonic() - self._start,
            )
