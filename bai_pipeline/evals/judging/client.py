"""Chat completions of an OpenAI-compatible server, with retries.

Protocol: https://platform.openai.com/docs/api-reference/chat/create, of which only what every compatible server has is
used: POST {url}/chat/completions with model, messages, temperature and max_tokens.
"""

import math
import os
import random
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from bai_pipeline.eval_settings import JudgeSettings
from bai_pipeline.evals.judging.cache import ChatRequest, Completion, Usage, read_usage
from bai_pipeline.evals.judging.costs import Ledger
from bai_pipeline.evals.judging.errors import Halted, JudgeError

if TYPE_CHECKING:
    import httpx

REPEATED = frozenset({408, 409, 429})
"""Statuses after which a request is sent again, beside 5xx."""
LONGEST_BACKOFF = 60.0
"""Seconds; the doubling of the wait ends here."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds; a server that asks for more is given up."""
CONNECT_TIMEOUT = 30.0
MESSAGE_LENGTH = 300
"""Characters of a server's message that an error repeats."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no completion."""

    reason: str
    repeat: bool
    """Another attempt may succeed."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    usage: Usage | None = None
    """What the server says that the attempt has cost."""
    billed: bool = False
    """The request was read: the server may have answered it, and bill it, though no whole answer arrived."""


class ChatClient:
    """Asks the server; may be used by several threads."""

    def __init__(self, settings: JudgeSettings, ledger: Ledger, halted: threading.Event) -> None:
        """The key is read from the environment here.

        Args:
            ledger: counts what is sent and says whether the budget allows more.
            halted: once it is set, no further request starts and no wait goes on.

        Raises:
            JudgeError: the key cannot be sent in a header.
        """
        # not before it is needed: the tables import the evaluation without its extra
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise JudgeError(
                f'expected the extra "evals" to be installed, got {error}; run pip install "bai_pipeline[evals]"; '
                "nothing was judged"
            ) from error

        self._settings = settings
        self._ledger = ledger
        self._halted = halted
        self._address = f"{settings.url}/chat/completions"
        self._jitter = random.Random()
        self._key = _read_key(settings.api_key_variable)
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(settings.timeout, connect=min(settings.timeout, CONNECT_TIMEOUT)),
            limits=httpx.Limits(max_connections=settings.parallel, max_keepalive_connections=settings.parallel),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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
            outcome = self._attempt(request)
            if isinstance(outcome, Completion):
                self._ledger.charge(request, outcome.usage)
                return outcome
            if outcome.billed:
                self._ledger.charge(request, outcome.usage)
            if not outcome.repeat or attempt > self._settings.max_retries:
                times = f" after {attempt} attempts" if attempt > 1 else ""
                raise JudgeError(f"no verdict on {what} from {self._address}{times}: {outcome.reason}")
            self._halted.wait(self._wait(attempt, outcome))

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

    def _attempt(self, request: ChatRequest) -> Completion | Failure:
        import httpx

        try:
            response = self._http.post(self._address, content=request.encoded())
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return Failure(self._told(error), repeat=True)
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.DecodingError) as error:
            return Failure(self._told(error), repeat=True, billed=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Failure(self._told(error), repeat=False)
        if response.status_code == 200:
            return self._read(response)
        return self._refused(response)

    def _read(self, response: "httpx.Response") -> Completion | Failure:
        """The completion in an answer with status 200."""
        try:
            content = response.json()
        except ValueError:
            return Failure(f"expected JSON, got {self._message(response)}", repeat=True, billed=True)
        usage = read_usage(content.get("usage")) if isinstance(content, dict) else None
        try:
            choice = content["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            text, reason = False, None
        if not (text is None or isinstance(text, str)):
            found = self._message(response)
            return Failure(
                f"expected choices[0].message.content, a text, got {found}", repeat=True, usage=usage, billed=True
            )
        return Completion(text or "", reason if isinstance(reason, str) else None, usage)

    def _refused(self, response: "httpx.Response") -> Failure:
        """What another status than 200 means."""
        status = response.status_code
        reason = f"HTTP {status}: {self._message(response)}{self._hint(status)}"
        if status not in REPEATED and status < 500:
            return Failure(reason, repeat=False)
        wait = _retry_after(response.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST_RETRY_AFTER:
            return Failure(f"{reason} (the server asks to wait {wait:.0f} seconds)", repeat=False)
        return Failure(reason, repeat=True, wait=wait)

    def _message(self, response: "httpx.Response") -> str:
        """What the server says went wrong, in a line without the key."""
        try:
            content: object = response.json()
        except ValueError:
            content = response.text
        for name in ("error", "message", "detail"):  # OpenAI: {"error": {"message": …}}; FastAPI: {"detail": …}
            if isinstance(content, dict) and content.get(name):
                content = content[name]
        return self._clean(str(content)) or "no message"

    def _told(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}")

    def _clean(self, text: str) -> str:
        hidden = text.replace(self._key, "(key)") if self._key is not None else text
        line = " ".join(hidden.split())
        return line if len(line) <= MESSAGE_LENGTH else line[:MESSAGE_LENGTH] + " …"

    def _hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        variable = self._settings.api_key_variable
        if self._key is None:
            return f" (no key was sent: the environment variable {variable} is not set)"
        return f" (the key that was sent is of the environment variable {variable})"


def _read_key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise JudgeError(
            f"the environment variable {variable} holds no key: expected printable ASCII without spaces; nothing was "
            "judged"
        )
    return key or None


def _retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3: a number of seconds or a date)."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        zoned = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        seconds = (zoned - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
