"""Chat completions of an OpenAI-compatible server, with retries.

Protocol: https://platform.openai.com/docs/api-reference/chat/create, of which only what every compatible server has is
used: POST {url}/chat/completions with model, messages, temperature and max_tokens.
"""

import random
import threading

from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.endpoint import Endpoint, Failure
from bai_pipeline.evals.judging.cache import ChatRequest, Completion, Usage, read_usage
from bai_pipeline.evals.judging.costs import Ledger
from bai_pipeline.evals.judging.errors import Halted, JudgeError

LONGEST_BACKOFF = 60.0
"""Seconds; the doubling of the wait ends here."""


class ChatClient:
    """Asks the server; may be used by several threads."""

    def __init__(self, settings: JudgeSettings, ledger: Ledger, halted: threading.Event) -> None:
        """The key is read from the environment here.

        Args:
            ledger: counts what is sent and says whether the budget allows more.
            halted: once it is set, no further request starts and no wait goes on.

        Raises:
            EvaluationError: as `Endpoint`.
        """
        self._settings = settings
        self._ledger = ledger
        self._halted = halted
        self._jitter = random.Random()
        self._endpoint = Endpoint(
            f"{settings.url}/chat/completions",
            key_variable=settings.api_key_variable,
            timeout=settings.timeout,
            parallel=settings.parallel,
        )

    def close(self) -> None:
        """Close the connections."""
        self._endpoint.close()

    def complete(self, request: ChatRequest, what: str) -> Completion:
        """The answer to a request, after as many attempts as the settings allow.

        Args:
            what: is asked for, as an error names it.

        Raises:
            Halted: an attempt was not made, since the budget is reached or the run ends.
            JudgeError: the server refused the request, or the last attempt failed.
        """
        attempt = 0
        while True:
            attempt += 1
            self._admit(again=attempt > 1)
            outcome = self._read(self._endpoint.post(request.encoded()))
            if isinstance(outcome, Completion):
                self._ledger.charge(request, outcome.usage)
                return outcome
            failure, usage = outcome
            if failure.billed:
                self._ledger.charge(request, usage)
            if not failure.repeat or attempt > self._settings.max_retries:
                times = f" after {attempt} attempts" if attempt > 1 else ""
                raise JudgeError(f"no verdict on {what} from {self._endpoint.address}{times}: {failure.reason}")
            self._halted.wait(self._wait(attempt, failure))

    def _admit(self, *, again: bool) -> None:
        if self._halted.is_set() or not self._ledger.admit(again=again):
            self._halted.set()
            raise Halted("no further request starts")

    def _wait(self, attempt: int, failure: Failure) -> float:
        """Seconds until the next attempt."""
        backoff = min(self._settings.retry_wait * 2.0 ** min(attempt - 1, 30), LONGEST_BACKOFF)
        if failure.wait is not None:
            return failure.wait + self._jitter.uniform(0.0, 0.1 * backoff)
        return backoff * self._jitter.uniform(0.5, 1.0)

    def _read(self, content: object | Failure) -> Completion | tuple[Failure, Usage | None]:
        """The completion in an answer; else why there is none, and what the server says that it has cost."""
        if isinstance(content, Failure):
            return content, None
        usage = read_usage(content.get("usage")) if isinstance(content, dict) else None
        try:
            choice = content["choices"][0]  # type: ignore[index]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            text, reason = False, None
        if not (text is None or isinstance(text, str)):
            found = self._endpoint.message(content)
            return (
                Failure(f"expected choices[0].message.content, a text, got {found}", repeat=True, billed=True),
                usage,
            )
        return Completion(text or "", reason if isinstance(reason, str) else None, usage)
