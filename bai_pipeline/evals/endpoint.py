"""POST of JSON to an OpenAI-compatible server: one attempt, and whether another may succeed."""

import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from bai_pipeline.errors import EvaluationError

if TYPE_CHECKING:
    import httpx

REPEATED = frozenset({408, 409, 429})
"""Statuses after which a request is sent again, beside 5xx."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds; a server that asks for more is given up."""
CONNECT_TIMEOUT = 30.0
MESSAGE_LENGTH = 300
"""Characters of a server's message that an error repeats."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    reason: str
    repeat: bool
    """Another attempt may succeed."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    billed: bool = False
    """The request was read: the server may have answered it, and bill it, though no whole answer arrived."""


class Endpoint:
    """An address below a server's; may be used by several threads."""

    def __init__(self, address: str, *, key_variable: str, timeout: float, parallel: int) -> None:
        """The key is read from the environment here.

        Args:
            key_variable: names the environment variable that holds the key; not set: none is sent.
            timeout: seconds without a byte from the server.
            parallel: connections at once.

        Raises:
            EvaluationError: the key cannot be sent in a header, or there is no HTTP client.
        """
        # not before it is needed: the tables import the evaluation without its extra
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise EvaluationError(
                f'expected the extra "evals" to be installed, got {error}; run pip install "bai_pipeline[evals]"; '
                "nothing was asked"
            ) from error

        self.address = address
        self._variable = key_variable
        self._key = _read_key(key_variable)
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            limits=httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def post(self, content: bytes) -> object | Failure:
        """The JSON of an answer with status 200."""
        import httpx

        try:
            response = self._http.post(self.address, content=content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            return Failure(self._told(error), repeat=True)
        except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.DecodingError) as error:
            return Failure(self._told(error), repeat=True, billed=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Failure(self._told(error), repeat=False)
        if response.status_code != 200:
            return self._refused(response)
        try:
            found: object = response.json()
        except ValueError:
            return Failure(f"expected JSON, got {self.message(response.text)}", repeat=True, billed=True)
        return found

    def message(self, content: object) -> str:
        """What a server says went wrong, in a line without the key."""
        for name in ("error", "message", "detail"):  # OpenAI: {"error": {"message": …}}; FastAPI: {"detail": …}
            if isinstance(content, dict) and content.get(name):
                content = content[name]
        return self._clean(str(content)) or "no message"

    def _refused(self, response: "httpx.Response") -> Failure:
        """What another status than 200 means."""
        status = response.status_code
        reason = f"HTTP {status}: {self.message(_content(response))}{self._hint(status)}"
        if status not in REPEATED and status < 500:
            return Failure(reason, repeat=False)
        wait = _retry_after(response.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST_RETRY_AFTER:
            return Failure(f"{reason} (the server asks to wait {wait:.0f} seconds)", repeat=False)
        return Failure(reason, repeat=True, wait=wait)

    def _told(self, error: Exception) -> str:
        return self._clean(f"{type(error).__name__}: {error}")

    def _clean(self, text: str) -> str:
        hidden = text.replace(self._key, "(key)") if self._key is not None else text
        line = " ".join(hidden.split())
        return line if len(line) <= MESSAGE_LENGTH else line[:MESSAGE_LENGTH] + " …"

    def _hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        variable = self._variable
        if self._key is None:
            return f" (no key was sent: the environment variable {variable} is not set)"
        return f" (the key that was sent is of the environment variable {variable})"


def _read_key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise EvaluationError(
            f"the environment variable {variable} holds no key: expected printable ASCII without spaces; nothing was "
            "asked"
        )
    return key or None


def _content(response: "httpx.Response") -> object:
    try:
        found: object = response.json()
    except ValueError:
        return response.text
    return found


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
